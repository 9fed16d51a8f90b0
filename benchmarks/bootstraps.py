"""The product's own bootstrap of Envoy, made to answer by itself in place of an upstream."""

import json
from dataclasses import dataclass
from typing import Any, Final

import yaml

from authz.demo.envoy_config import filled, written


NOBODY: Final = 9  # the port `discard`, where nobody listens
TEXT: Final = "ok"
ANSWER: Final = json.dumps(  # as a model API tells its usage
    {"model": "mock-chat", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11, "total_tokens": 18}}
)


@dataclass(frozen=True, slots=True)
class Variant:
    """
    Args:
        tracing: Every request is traced, so every check carries a `traceparent` of its own. The spans go nowhere.
        log: Port of `listen.grpc`, to which the access log goes; 0: there is none.
        usage: The answer is JSON that tells usage.
    """

    tracing: bool = False
    log: int = 0
    usage: bool = False


def bootstrap(variant: Variant, *, edge: int, authz: int, admin: int) -> str:
    """Listens on *edge*, asks *authz*; all else is as in deploy/envoy."""
    text = filled(edge=edge, authz=authz, log=variant.log or NOBODY, upstream=NOBODY, admin=admin)
    config: Any = yaml.safe_load(text)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["access_log"] = [log for log in manager["access_log"] if variant.log and log["name"] == "settle"]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            if route.pop("route", None) is not None:
                route.update(_answered(variant))
    if variant.tracing:
        _trace(config, manager)
    return written(config)


def _answered(variant: Variant) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "direct_response": {"status": 200, "body": {"inline_string": ANSWER if variant.usage else TEXT}}
    }
    if variant.usage:
        header = {"key": "content-type", "value": "application/json"}
        answer["response_headers_to_add"] = [{"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    return answer


def _trace(config: Any, manager: Any) -> None:
    manager["tracing"] = {
        "random_sampling": {"value": 100},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": {"envoy_grpc": {"cluster_name": "spans"}, "timeout": "0.25s"},
                "service_name": "bench",
            },
        },
    }
    values = {"tracing.opentelemetry.min_flush_spans": 10**6, "tracing.opentelemetry.flush_interval_ms": 60_000}
    config["layered_runtime"] = {"layers": [{"name": "bench", "static_layer": values}]}
    config["static_resources"]["clusters"].append(
        {
            "name": "spans",
            "type": "STATIC",
            "connect_timeout": "0.2s",
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            },
            "load_assignment": {
                "cluster_name": "spans",
                "endpoints": [
                    {
                        "lb_endpoints": [
                            {
                                "endpoint": {
                                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": NOBODY}}
                                }
                            }
                        ]
                    }
                ],
            },
        }
    )
