"""`deploy/envoy/envoy.yaml` with its ports filled in; nothing else is changed."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from authz.demo.processes import DemoError


def filled(*, edge: int, authz: int, log: int, upstream: int, admin: int) -> str:
    """The bootstrap as Envoy reads it; *log* is the port of `listen.grpc`."""
    bootstrap: Any = yaml.safe_load(shipped("envoy.yaml", "deploy/envoy/envoy.yaml"))
    static = bootstrap["static_resources"]
    _set_port(bootstrap["admin"], admin)
    _set_port(_named(static["listeners"], "edge"), edge)
    for cluster, port in (("authz", authz), ("authz_log", log), ("upstream", upstream)):
        endpoints = _named(static["clusters"], cluster)["load_assignment"]["endpoints"]
        _set_port(endpoints[0]["lb_endpoints"][0]["endpoint"], port)
    return written(bootstrap)


def written(bootstrap: Any) -> str:
    """As JSON, which is YAML without its traps: PyYAML writes the text `n` bare, and Envoy reads that as `false`."""
    return json.dumps(bootstrap, indent=2)


def shipped(name: str, in_tree: str) -> str:
    """A file of deploy/: from the wheel, or from the tree beside the package. Raises: DemoError."""
    packed = resources.files(__package__).joinpath("files", name)
    if packed.is_file():
        return packed.read_text("utf-8")
    path = Path(__file__).parents[2] / in_tree
    if not path.is_file():
        raise DemoError(f"{name} is neither in the package nor at {in_tree}")
    return path.read_text("utf-8")


def _named(items: list[Any], name: str) -> Any:
    return next(item for item in items if item["name"] == name)


def _set_port(node: Any, port: int) -> None:
    node["address"]["socket_address"]["port_value"] = port
