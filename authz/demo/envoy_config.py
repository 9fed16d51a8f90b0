"""`deploy/envoy/envoy.yaml`, or a profile's, with its ports filled in; nothing else is changed."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from authz.demo.processes import DemoError


def filled(  # noqa: PLR0913 - each is a place in it
    *,
    edge: int,
    authz: int,
    log: int,
    upstream: int,
    admin: int,
    http: int = 0,
    tls: int = 0,
    certificate: Path | None = None,
    profile: str = "default",
) -> str:
    """
    The bootstrap as Envoy reads it.

    *log* is the port of `listen.grpc`, *http* of `listen.http`, *tls* of the listener `edge_tls`, where there is one:
    without a *certificate*, which has its key beside it, that is left out.
    """
    name = "envoy.yaml" if profile == "default" else f"profiles/{profile}.yaml"
    bootstrap: Any = yaml.safe_load(shipped(f"envoy/{name}"))
    static = bootstrap["static_resources"]
    _set_port(bootstrap["admin"], admin)
    _set_port(_named(static["listeners"], "edge"), edge)
    if certificate is None:
        static["listeners"] = [each for each in static["listeners"] if each["name"] != "edge_tls"]
    else:
        _set_tls(_named(static["listeners"], "edge_tls"), tls, certificate)
    ports = {"authz": authz, "authz_log": log, "authz_http": http, "upstream": upstream}
    for cluster in static["clusters"]:
        endpoints = cluster["load_assignment"]["endpoints"]
        _set_port(endpoints[0]["lb_endpoints"][0]["endpoint"], ports[cluster["name"]])
    return written(bootstrap)


def written(bootstrap: Any) -> str:
    """As JSON, which is YAML without its traps: PyYAML writes the text `n` bare, and Envoy reads that as `false`."""
    return json.dumps(bootstrap, indent=2)


def shipped(name: str) -> str:
    """A file of deploy/: from the wheel, or from the tree beside the package. Raises: DemoError."""
    packed = resources.files(__package__).joinpath("files", name)
    if packed.is_file():
        return packed.read_text("utf-8")
    path = Path(__file__).parents[2] / "deploy" / name
    if not path.is_file():
        raise DemoError(f"{name} is neither in the package nor in deploy/")
    return path.read_text("utf-8")


def _named(items: list[Any], name: str) -> Any:
    return next(item for item in items if item["name"] == name)


def _set_tls(listener: Any, port: int, certificate: Path) -> None:
    _set_port(listener, port)
    common = listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]
    (pair,) = common["tls_certificates"]
    pair["certificate_chain"]["filename"] = str(certificate)
    pair["private_key"]["filename"] = str(certificate.with_suffix(".key"))


def _set_port(node: Any, port: int) -> None:
    node["address"]["socket_address"]["port_value"] = port
