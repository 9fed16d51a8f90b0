"""A request as the proxy describes it, whichever proxy that is."""

from collections.abc import Mapping
from dataclasses import field
from typing import Protocol

from authz.core.value import value


class Request(Protocol):
    """Read-only; an adapter may read what few checks ask for when they do. For each member, see `PlainRequest`."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def client_address(self) -> str: ...
    @property
    def context(self) -> Mapping[str, str]: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def is_max_sure(self) -> bool: ...
    @property
    def body(self) -> bytes: ...
    @property
    def is_cut_off(self) -> bool: ...


@value
class PlainRequest:
    """
    Args:
        method: As sent; compared exactly (RFC 9110 §9.1: methods are case-sensitive).
        path: Without the query, as the proxy normalised it.
        query: Without the question mark.
        headers: Lower-case names; a repeated header's values are joined by commas. Held out of `repr`: they hold keys.
        client_address: The peer that the proxy saw.
        context: Envoy's ``context_extensions`` of the route (those that begin with `authz.` are ours).
        max_tokens: The most that the answer may have, as the body says; None: it says nothing, or nothing that can be.
        is_max_sure: False: the body says more of it, in a way that can be read as anything.
        body: Empty: there is none, or the proxy does not show it. Held out of `repr`.
        is_cut_off: The proxy shows the beginning of the body alone.
    """

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    client_address: str = ""
    context: Mapping[str, str] = field(default_factory=dict)
    max_tokens: int | None = None
    is_max_sure: bool = True
    body: bytes = field(default=b"", repr=False)
    is_cut_off: bool = False


def request_id(request: Request) -> str:
    """As the proxy has named it; empty: it has not."""
    return request.headers.get("x-request-id", "")
