"""
Faults between fields: a route that names a scope, a limit or a rule that is not there, inclusion in circles, a listener
that the world can reach in plain text.

They are looked for in the raw document, whatever the models said of it, so that one run tells every fault. Warnings are
about a configuration without faults, in which something stands that is hardly meant.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote

from authz.core.policy import Route
from authz.core.rules import MAX_READ
from authz.core.scope import find_cycle
from authz.core.units import parse_size
from authz.settings.faults import Path, nearest


Found = tuple[Path, str, str]
_PLAIN_EVERYWHERE: Final = {"metrics"}  # says nothing secret


def crosscheck(raw: dict[str, object]) -> Iterator[Found]:
    """(path, reason, nearest valid name); *raw* is complete (defaults filled in), of any shape."""
    yield from _scopes(raw)
    yield from _routes(raw)
    yield from _limits(raw)
    yield from _request_rules(raw)
    yield from _listeners(raw)
    yield from _keyring(raw)
    yield from _peppers(raw)
    yield from _sources(raw)
    yield from _portals(raw)
    yield from _twice(
        ("responses", "ratelimit_headers"),
        [str(style) for style in _list(_mapping(raw.get("responses")).get("ratelimit_headers"))],
    )


def warnings(routes: Sequence[Route]) -> Iterator[tuple[Path, str]]:
    """(path, reason): rules of one exact path that another spelling of it passes by, in a route further down."""
    for index, route in enumerate(routes):
        if not route.rules or "*" in route.pattern:
            continue
        spelling = _other_spelling(unquote(route.pattern))
        for later in _reached(routes, route, spelling):
            lacked = [rule.name for rule in route.rules if rule not in routes[later].rules]
            if later > index and lacked:
                told = f"the route {route.name!r} asks for {', '.join(lacked)}, but {spelling!r} falls to"
                there = f"routes[{later}], {routes[later].name!r}, which does not: where the upstream takes both paths"
                remedy = f"for one, put the rules on that route as well, or add a route for {spelling!r} before it"
                yield ("routes", index, "rules"), f"{told} {there} {remedy}"


def _other_spelling(path: str) -> str:
    """With a slash at its end, or without: many servers take both for one."""
    return path[:-1] if path.endswith("/") else f"{path}/"


def _reached(routes: Sequence[Route], like: Route, path: str) -> list[int]:
    """Which routes *path* comes to, by any of the methods that *like* is for."""
    other = ""  # a method that no route names
    methods = like.methods or {other}.union(*(route.methods for route in routes))
    places = {
        next((place for place, route in enumerate(routes) if route.matches(method, path)), None) for method in methods
    }
    return sorted(place for place in places if place is not None)


def known_scopes(scopes: object) -> set[str]:
    names = set(_mapping(scopes))
    return names | {str(name) for included in _mapping(scopes).values() for name in _list(included)}


def _scopes(raw: dict[str, object]) -> Iterator[Found]:
    includes = {scope: [str(name) for name in _list(names)] for scope, names in _mapping(raw.get("scopes")).items()}
    if cycle := find_cycle(includes):
        yield ("scopes", cycle[0]), f"includes itself: {' → '.join(cycle)}", ""
    for scope, names in includes.items():
        yield from _twice(("scopes", scope), names)


def _routes(raw: dict[str, object]) -> Iterator[Found]:
    scopes, limits = known_scopes(raw.get("scopes")), set(_mapping(raw.get("limits")))
    rules = set(_mapping(raw.get("request_rules")))
    for index, route in enumerate(_list(raw.get("routes"))):
        fields = _mapping(route)
        for what, known in (("scope", scopes), ("limit", limits), ("rule", rules)):
            yield from _known(("routes", index, f"{what}s"), what, fields.get(f"{what}s"), known)
        if fields.get("public") is True and (fields.get("scopes") or fields.get("limits")):
            yield ("routes", index), "a public route has neither scopes nor limits: nobody is asked who they are", ""
        if fields.get("public") is True and fields.get("rules"):
            yield ("routes", index, "rules"), "a public route has no rules: nothing is asked there", ""


def _limits(raw: dict[str, object]) -> Iterator[Found]:
    for name, limit in _mapping(raw.get("limits")).items():
        if isinstance(limit, dict) and not limit.get("requests") and not limit.get("tokens"):
            yield ("limits", name), "limits nothing: it has neither requests nor tokens", ""


def _request_rules(raw: dict[str, object]) -> Iterator[Found]:
    known = known_scopes(raw.get("scopes"))
    for name, rule in _mapping(raw.get("request_rules")).items():
        fields = _mapping(rule)
        asked = [fields.get(field) for field in ("content_types", "max_body", "max_prompt")]
        if isinstance(rule, dict) and asked == [None] * 3 and not fields.get("stream_scopes"):
            reason = "asks for nothing: neither content_types, max_body, max_prompt nor stream_scopes"
            yield ("request_rules", name), reason, ""
        yield from _known(("request_rules", name, "stream_scopes"), "scope", fields.get("stream_scopes"), known)
        reading = [field for field in ("max_prompt", "stream_scopes") if fields.get(field)]
        if reading and _bytes(fields.get("max_body")) > MAX_READ:
            reason = f"must be at most {MAX_READ} bytes: with {reading[0]}, all of a body is read"
            yield ("request_rules", name, "max_body"), reason, ""


def _bytes(size: object) -> int:
    """0: it is none, as the models will say."""
    try:
        return parse_size(size)
    except ValueError:
        return 0


def _listeners(raw: dict[str, object]) -> Iterator[Found]:
    seen: dict[str, str] = {}
    for name, listener in _mapping(raw.get("listen")).items():
        fields = {"address": listener} if isinstance(listener, str) else _mapping(listener)
        address = fields.get("address")
        if not isinstance(address, str):
            continue
        if fault := address_fault(address):
            yield ("listen", name), fault, ""
        elif not is_local(address) and fields.get("insecure") is not True and name not in _PLAIN_EVERYWHERE:
            yield ("listen", name), "listens beyond this host in plain text: say 'insecure: true' if that is meant", ""
        elif name == "authz" and raw.get("server") == "fast" and not is_local(address):
            yield ("server",), "'fast' serves this host alone, and listen.authz lies beyond: say auto or grpcio", ""
        if address in seen and not address.endswith(":0"):
            yield ("listen", name), f"the same address as listen.{seen[address]}", ""
        seen.setdefault(address, name)


def _keyring(raw: dict[str, object]) -> Iterator[Found]:
    ids: list[object] = []
    for index, entry in enumerate(_list(_mapping(raw.get("keys")).get("keyring"))):
        fields = _mapping(entry)
        if fields.get("id") is not None and fields["id"] in ids:
            yield ("keys", "keyring", index, "id"), f"stands twice: {fields['id']!r}", ""
        ids.append(fields.get("id"))
        yield from _secret(("keys", "keyring", index, "secret"), fields.get("secret"))


def _sources(raw: dict[str, object]) -> Iterator[Found]:
    seen: list[tuple[str, str]] = []
    for index, source in enumerate(_list(_mapping(raw.get("credentials")).get("sources"))):
        fields = _mapping(source)
        place = (str(fields.get("header")).lower(), str(fields.get("scheme")).lower())
        if place in seen:
            yield ("credentials", "sources", index), "stands twice", ""
        seen.append(place)


def _portals(raw: dict[str, object]) -> Iterator[Found]:
    """What a portal promises and this configuration cannot keep."""
    names = [str(name) for name in _list(raw.get("portals"))]
    yield from _twice(("portals",), names)
    if "inferexai" in names and _mapping(raw.get("keys")).get("retain_token") is not True:
        yield ("portals", names.index("inferexai")), "shows tokens again: it needs 'keys.retain_token: true'", ""
    if "inferno" in names and "manage_users" not in known_scopes(raw.get("scopes")):
        yield (
            ("portals", names.index("inferno")),
            "asks its callers for the scope 'manage_users', which is not there",
            "",
        )


def _peppers(raw: dict[str, object]) -> Iterator[Found]:
    pepper = _mapping(raw.get("keys")).get("pepper")
    if isinstance(pepper, list | tuple):
        for index, one in enumerate(pepper):
            yield from _secret(("keys", "pepper", index), one)
    else:
        yield from _secret(("keys", "pepper"), pepper)


def _secret(path: Path, secret: object) -> Iterator[Found]:
    if isinstance(secret, str):
        yield path, "a secret does not stand in the file: say {env: NAME} or {file: PATH}", ""
    elif isinstance(secret, dict) and sum(value is not None for value in secret.values()) != 1:
        yield path, "must say either env or file", ""


def address_fault(address: str) -> str:
    """Why *address* cannot be listened on; empty: it can."""
    if address.startswith("unix:"):
        return "" if len(address) > len("unix:") else "unix: needs a path"
    host, colon, port = address.rpartition(":")
    if not colon or not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        return "must be HOST:PORT or unix:PATH"
    try:
        bare = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return "" if host == "localhost" else "the host must be an IP address or localhost"
    return "an IPv6 address stands in brackets: [::1]:9001" if bare.version == 6 and host[0] != "[" else ""


def is_local(address: str) -> bool:
    """A Unix socket or a loopback address."""
    host = address.rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host == "localhost" or ipaddress.ip_address(host).is_loopback


def _known(path: Path, what: str, named: object, known: set[str]) -> Iterator[Found]:
    names = [str(name) for name in _list(named)]
    yield from _twice(path, names)
    for place, name in enumerate(names):
        if name not in known:
            yield (*path, place), f"unknown {what} {name!r}", nearest(name, known)


def _twice(path: Path, names: list[str]) -> Iterator[Found]:
    for place, name in enumerate(names):
        if name in names[:place]:
            yield (*path, place), f"stands twice: {name!r}", ""


def _mapping(value: object) -> dict[str, object]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []
