"""Envoy's messages as Envoy writes and reads them, without our codec."""

from typing import Any

from envoy.service.auth.v3 import external_auth_pb2

from authz.adapters.envoy.codec import ResponseStyle
from authz.core.bucket import Limit, Quota
from authz.core.principal import Principal
from authz.core.problems import FORMATS


STYLE = ResponseStyle(FORMATS["openai"], ("x-ratelimit",), ("authorization", "x-api-key"))
PRINCIPAL = Principal("key_1a2b3c4d00abcdefghij", "sk-live-1a2b3c4d", "user-1", "acme", ("read-only", "read-write"))
QUOTA = Quota("default", "requests", Limit(60, 60), 59, 1_000_000)
NOW_US = 1_700_000_000_000_000


def check_request(method: str = "GET", path: str = "/v1/models", query: str = "", **headers: str) -> Any:
    """A CheckRequest; underscores in the names of headers stand for hyphens."""
    request: Any = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.query = method, path, query
    for name, value in headers.items():
        http.headers[name.replace("_", "-")] = value
    return request


def response(message: bytes) -> Any:
    return external_auth_pb2.CheckResponse.FromString(message)


def pairs(options: Any) -> dict[str, str]:
    """Name to value of a list of HeaderValueOptions, in which no name may stand twice."""
    found = {option.header.key: option.header.value for option in options}
    assert len(found) == len(options)
    return found
