"""Whose address a request comes from, where proxies stand between."""

import ipaddress
from collections.abc import Sequence
from typing import Final


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_HOPS: Final = 32


def client_address(peer: str, forwarded_for: str, trusted: Sequence[Network]) -> str:
    """
    The address of the client: the peer, or where that is a trusted proxy, what it says in `X-Forwarded-For`.

    Read from the right, as each proxy appends whom it saw: the first address that is not a trusted proxy's. What stands
    left of it is the client's own claim. A Unix socket (empty *peer*) is trusted where any proxy is.
    """
    address = peer
    for hop in reversed(forwarded_for.split(",")[-MAX_HOPS:]):
        if not _is_trusted(address, trusted) or not hop.strip():
            break
        address = _bare(hop.strip())
    return address


def neighbourhood(address: str) -> str:
    """What shares a limit: an IPv4 address, or the /64 of an IPv6 address, as one customer has all of that."""
    parsed = _parsed(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An IPv4 address that is written as an IPv6 one (`::ffff:192.0.2.1`) is one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(parsed, "ipv4_mapped", None) or parsed


def _is_trusted(address: str, trusted: Sequence[Network]) -> bool:
    if not address:
        return bool(trusted)
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in trusted)


def _bare(hop: str) -> str:
    """Some proxies add a port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
