"""The configuration of the sidecars that are measured, and keys for them."""

from collections.abc import Mapping
from typing import Any, Final

from benchmarks.parts import Parts, Store
from benchmarks.tokens import Keys, some


HUNDRED: Final = 100
REQUESTS: Final = "100000000/31d"  # a bucket that is used and does not run dry
TOKENS: Final = "1000000000/31d"
SCOPES: Final = {"read-write": ["read-only"]}
ROUTES: Final = (
    {"name": "read", "methods": ["GET"], "path": "/v1/**", "scopes": ["read-only"], "limits": ["default"]},
    {"name": "write", "path": "/v1/**", "scopes": ["read-write"], "limits": ["default"]},
)


def settings(store: Store, server: str = "fast", **changed: Any) -> dict[str, Any]:
    """A sidecar's: one bucket a key. *changed*: fields in place of these."""
    plain = {
        "server": server,
        "store": {"url": store.url},
        "scopes": SCOPES,
        "routes": list(ROUTES),
        "limits": {"default": {"requests": REQUESTS}},
    }
    return plain | changed


def made(parts: Parts, under: Mapping[str, Any], *scopes: str) -> list[str]:
    """A hundred keys, by the product itself."""
    return Keys(parts.configured(under)[1]).make(some(HUNDRED, *scopes))
