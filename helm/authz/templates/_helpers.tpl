{{- define "authz.selector" -}}
app.kubernetes.io/name: authz
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "authz.labels" -}}
{{ include "authz.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- /* The profile's configuration with the user's on it, as JSON. */}}
{{- define "authz.wanted" -}}
{{- $profile := dict }}
{{- with .Values.profile }}
{{- $profile = $.Files.Get (printf "profiles/%s.yaml" .) | fromYaml }}
{{- end }}
{{- toJson (mergeOverwrite $profile (deepCopy .Values.config)) }}
{{- end }}

{{- /* Not empty where listen.http is served: for the portals of the configuration. */}}
{{- define "authz.http" -}}
{{- if (include "authz.wanted" . | fromJson).portals }}yes{{ end }}
{{- end }}

{{- /* What is wanted, with what the chart decides: where to listen, and which store. */}}
{{- define "authz.config" -}}
{{- $config := include "authz.wanted" . | fromJson }}
{{- $listen := dict "authz" (dict "address" "0.0.0.0:9001" "insecure" true) "grpc" (dict "address" "0.0.0.0:9002" "insecure" true) "http" nil "metrics" "0.0.0.0:9090" }}
{{- if include "authz.http" . }}
{{- $_ := set $listen "http" (dict "address" "0.0.0.0:9003" "insecure" true) }}
{{- end }}
{{- $store := merge (dict "url" .Values.store.url) (get $config "store" | default dict) }}
{{- toYaml (mergeOverwrite $config (dict "listen" $listen "store" $store)) }}
{{- end }}
