"""The chart by a real Helm and the Kubernetes schemas; `make chart` installs both, and without them this is skipped."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.core.bucket import Limit
from authz.settings import load_settings


helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed: 'make chart' does that")
kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "authz"
PROFILES = sorted(file.stem for file in (ROOT / "deploy" / "profiles").glob("*.yaml"))
SECRETS = {"AUTHZ_JWT_SECRET": "s" * 32, "AUTHZ_PEPPER": "p" * 32}
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

    settings = load_settings(file, SECRETS).settings

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


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_the_file_of_that_name_and_the_users_settings_on_it(name: str, tmp_path: Path) -> None:
    config = {"limits": {"default": {"requests": "7/1m"}}, "store": {"on_error": "allow"}}
    objects = rendered({**STORE, "profile": name, "config": config})
    file = tmp_path / "authz.yaml"
    file.write_text(objects["ConfigMap"]["data"]["authz.yaml"])

    told = load_settings(file, SECRETS).settings
    shipped = load_settings(ROOT / "deploy" / "profiles" / f"{name}.yaml", SECRETS).settings

    same = {"credentials", "keys", "scopes", "routes", "request_rules", "responses", "portals"}
    assert told.model_dump(include=same) == shipped.model_dump(include=same)
    assert (told.limits["default"].requests, told.store.on_error) == (Limit(7, 60), "allow")


@pytest.mark.parametrize("name", PROFILES)
def test_envoy_reaches_the_portals_of_a_profile_that_has_some(name: str) -> None:
    objects = rendered({**STORE, "profile": name})
    config = yaml.safe_load(objects["ConfigMap"]["data"]["authz.yaml"])
    container = objects["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    wanted = {9003} if config.get("portals") else set()

    served = {port["port"] for port in objects["Service"]["spec"]["ports"]}
    allowed = {port["port"] for port in objects["NetworkPolicy"]["spec"]["ingress"][0]["ports"]}

    assert served == {9001, 9002} | wanted
    assert {port["containerPort"] for port in container["ports"]} == {9001, 9002, 9090} | wanted
    assert ("http" in allowed) == bool(wanted)
    assert config["listen"]["http"] == ({"address": "0.0.0.0:9003", "insecure": True} if wanted else None)


def test_the_schema_knows_every_profile() -> None:
    told = yaml.safe_load((CHART / "values.schema.json").read_text())

    assert told["properties"]["profile"]["enum"] == ["", *PROFILES]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        pytest.param({}, "url", id="no store"),
        pytest.param({"store": {"url": "embedded"}}, "url", id="embedded"),
        pytest.param({**STORE, "replicas": 0}, "replicas", id="no replica"),
        pytest.param({**STORE, "replcias": 2}, "replcias", id="unknown value"),
        pytest.param({**STORE, "profile": "inferon"}, "profile", id="unknown profile"),
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
