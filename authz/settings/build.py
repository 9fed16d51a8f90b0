"""From what was configured to what the core works with."""

import ipaddress
from dataclasses import replace

from authz.core.addresses import Network
from authz.core.credential import Source
from authz.core.policy import LimitSet, Policy, Route
from authz.core.rules import MAX_READ, RequestRule
from authz.core.scope import ScopeTable
from authz.pipeline import CredentialRules
from authz.settings.model import RouteSettings, Settings


def policy(settings: Settings) -> Policy:
    limits = {name: LimitSet(name, limit.per, limit.requests, limit.tokens) for name, limit in settings.limits.items()}
    rules = _request_rules(settings)
    return Policy(
        routes=tuple(_route(route, limits, rules) for route in settings.routes),
        scopes=ScopeTable(dict(settings.scopes)),
        limits=limits,
        estimate=settings.settlement.estimate,
        open_on_error=settings.store.on_error == "allow",
    )


def _request_rules(settings: Settings) -> dict[str, RequestRule]:
    return {
        name: RequestRule(name, rule.content_types or (), rule.max_body, rule.max_prompt, rule.stream_scopes)
        for name, rule in settings.request_rules.items()
    }


def largest_body(settings: Settings) -> int:
    """How many bytes of a body may come with a check; 0: no rule looks at one."""
    sizes = (rule.largest for rule in _request_rules(settings).values())
    return min(max((size for size in sizes if size is not None), default=0), MAX_READ)


def _route(route: RouteSettings, limits: dict[str, LimitSet], rules: dict[str, RequestRule]) -> Route:
    return Route(
        name=route.name or route_name(route),
        pattern=route.path,
        methods=frozenset(route.methods),
        scopes=route.scopes,
        limits=tuple(limits[name] for name in route.limits),
        rules=tuple(rules[name] for name in route.rules),
        public=route.public,
    )


def route_name(route: RouteSettings) -> str:
    """A metric label out of methods and path: `GET,HEAD /v1/**`."""
    return f"{','.join(route.methods)} {route.path}".strip()


def credential_rules(settings: Settings) -> CredentialRules:
    credentials, keys = settings.credentials, settings.keys
    return CredentialRules(
        sources=tuple(Source(source.header, (source.scheme or "").lower()) for source in credentials.sources),
        refuse_in_query=frozenset(name.lower() for name in credentials.refuse_in_query),
        prefix=keys.prefix,
        require_record=keys.require_record,
    )


def door_rules(settings: Settings) -> CredentialRules:
    """
    Of authz's own doors: keys that have a record, and wherever the API has its keys, a Bearer token as well. Sessions
    have no other place, and so one command line manages the keys of every API.
    """
    rules, bearer = credential_rules(settings), Source("authorization", "bearer")
    sources = rules.sources if bearer in rules.sources else (*rules.sources, bearer)
    return replace(rules, sources=sources, require_record=True)


def admin_policy(settings: Settings, name: str, scope: str) -> Policy:
    """
    What the doors of the admin API and of a portal ask for: *scope* (empty: none), on every path, under a limit of
    their own as large as `default`'s, so that managing keys takes nothing from a key's requests.
    """
    default = settings.limits.get("default")
    limits = (LimitSet(name, requests=default.requests),) if default and default.requests else ()
    route = Route(name, "/**", scopes=(scope,) if scope else (), limits=limits)
    return Policy((route,), ScopeTable(dict(settings.scopes)), {}, estimate=0)


def trusted_proxies(settings: Settings) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in settings.trusted_proxies)
