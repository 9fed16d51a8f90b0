"""The chart by a real Helm and the Kubernetes schemas; `make chart` installs both, and without them this is skipped."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.settings import load_settings


helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: 'make chart' does that")
kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

CHART = Path(__file__).parents[2] / "helm" / "authz"
STORE = {"store": {"url": "redis://valkey:6379"}}
VERSIONS = ["1.35", "1.36", "1.37"]


def rendered(values: dict[str, Any]) -> dict[str, Any]:
    """The objects by kind."""
    with helm.Chart.load(CHART) as chart:
        texts = chart.render(values, name="demo", namespace="gateway")
    documents = [yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yaml")]
    return {document["kind"]: document for document in documents}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(version: str) -> None:
    objects = rendered(STORE)

    assert set(objects) == {"ConfigMap", "Deployment", "NetworkPolicy", "Service"}
    for document in objects.values():
        kubernetes.validate(document, version, strict=True)


def test_helm_lints_it() -> None:
    report = helm.lint(str(CHART), STORE, strict=True)

    assert not [
        message for message in report.get("messages", []) if message.get("severity") in {"ERROR", "WARNING", 2, 3}
    ]


def test_the_configuration_is_one_that_authz_takes(tmp_path: Path) -> None:
    """As mounted, with a setting of the user's in it."""
    config = {"store": {"on_error": "allow"}, "responses": {"format": "problem"}}
    objects = rendered({**STORE, "config": config})
    file = tmp_path / "authz.yaml"
    file.write_text(objects["ConfigMap"]["data"]["authz.yaml"])

    settings = load_settings(file, {"AUTHZ_JWT_SECRET": "s" * 32}).settings

    assert (settings.store.url, settings.store.on_error) == ("redis://valkey:6379", "allow")
    assert (settings.listen.authz.address, settings.responses.format) == ("0.0.0.0:9001", "problem")


def test_every_port_that_is_listened_on_is_reached_by_envoy_alone() -> None:
    """The check, and the access log without which no request is settled."""
    objects = rendered(STORE)
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    served = {port["port"]: named[port["targetPort"]] for port in objects["Service"]["spec"]["ports"]}
    allowed = objects["NetworkPolicy"]["spec"]["ingress"][0]["ports"]

    assert served == {9001: 9001, 9002: 9002}
    assert [named[port["port"]] for port in allowed] == [9001, 9002]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({}, "url", id="no store"),
        pytest.param({"store": {"url": "embedded"}}, "url", id="embedded"),
        pytest.param({**STORE, "replicas": 0}, "replicas", id="no replica"),
        pytest.param({**STORE, "replcias": 2}, "replcias", id="unknown value"),
    ],
)
def test_wrong_values_stop_the_install_with_the_fields_name(values: dict[str, Any], told: str) -> None:
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError, match=told):
        chart.validate_schema(values)


def test_the_container_is_hardened() -> None:
    pod = rendered(STORE)["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]["securityContext"]

    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["readOnlyRootFilesystem"]
    assert container["capabilities"] == {"drop": ["ALL"]}
