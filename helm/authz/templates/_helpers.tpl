{{- define "authz.selector" -}}
app.kubernetes.io/name: authz
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "authz.labels" -}}
{{ include "authz.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* The user's configuration with what the chart decides: where to listen, and which store. */}}
{{- define "authz.config" -}}
{{- $listen := dict "authz" (dict "address" "0.0.0.0:9001" "insecure" true) "grpc" (dict "address" "0.0.0.0:9002" "insecure" true) "http" nil "metrics" "0.0.0.0:9090" }}
{{- $store := merge (dict "url" .Values.store.url) (get .Values.config "store" | default dict) }}
{{- toYaml (mergeOverwrite (deepCopy .Values.config) (dict "listen" $listen "store" $store)) }}
{{- end }}
