"""Holds, finished requests and access log entries, as tests make them up."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from authz.core.bucket import Limit
from authz.core.settlement import DecisionId, Finished, Hold, Spent


BUCKET: Final = Limit(1000, 60)
SPENT: Final = Spent("default", "k:key_1", BUCKET, 500)
HOLD: Final = Hold(
    id=DecisionId(b"\x01\x02\x03\x04\x05\x06", 17, 42),
    at_us=1_795_000_000_000_000,
    key_id="key_1a2b3c4d00abcdefghij",
    key_prefix="sk-live-1a2b3c4d",
    subject="user-1",
    workspace="acme",
    allowed=True,
    recorded=True,
    spent=(SPENT,),
)
REFUSED: Final = replace(HOLD, allowed=False, spent=())
FINISHED: Final = Finished(HOLD, 1_795_000_000.25, 1.5, "POST", "/v1/chat/completions", 200)


def entry(
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    status: int = 200,
    path: str = "/v1/chat/completions",
    details: str = "via_upstream",
    **common: Any,
) -> Any:
    """One of Envoy's, of a request that is over."""
    made: Any = accesslog_pb2.HTTPAccessLogEntry()
    made.common_properties.access_log_type = common.pop("access_log_type", accesslog_pb2.DownstreamEnd)
    made.common_properties.start_time.FromNanoseconds(1_795_000_000_250_000_000)
    made.common_properties.duration.FromMilliseconds(1500)
    made.common_properties.downstream_remote_address.socket_address.address = "192.0.2.7"
    for name, value in common.items():
        setattr(made.common_properties, name, value)
    for namespace, values in (metadata or {}).items():
        made.common_properties.metadata.filter_metadata[namespace].update(dict(values))
    made.request.request_method = base_pb2.POST
    made.request.path = path
    made.request.request_id = "5f1c2d3e"
    made.response.response_code.value = status
    made.response.response_code_details = details
    return made


def message(*entries: Any) -> bytes:
    """A StreamAccessLogsMessage."""
    made: Any = als_pb2.StreamAccessLogsMessage()
    made.http_logs.log_entry.extend(entries)
    encoded: bytes = made.SerializeToString()
    return encoded
