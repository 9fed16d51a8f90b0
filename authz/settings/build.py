"""From what was configured to what the core works with."""

import ipaddress

from authz.core.addresses import Network
from authz.core.credential import Source
from authz.core.policy import LimitSet, Policy, Route
from authz.core.scope import ScopeTable
from authz.pipeline import CredentialRules
from authz.settings.model import RouteSettings, Settings


def policy(settings: Settings) -> Policy:
    limits = {name: LimitSet(name, limit.per, limit.requests, limit.tokens) for name, limit in settings.limits.items()}
    return Policy(
        routes=tuple(_route(route, limits) for route in settings.routes),
        scopes=ScopeTable(dict(settings.scopes)),
        limits=limits,
        estimate=settings.settlement.estimate,
    )


def _route(route: RouteSettings, limits: dict[str, LimitSet]) -> Route:
    return Route(
        name=route.name or route_name(route),
        pattern=route.path,
        methods=frozenset(route.methods),
        scopes=route.scopes,
        limits=tuple(limits[name] for name in route.limits),
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


def admin_policy(settings: Settings, name: str, scope: str) -> Policy:
    """
    What the doors of the admin API ask for: *scope*, on every path, under a limit of their own as large as `default`'s,
    so that managing keys takes nothing from a key's requests.
    """
    default = settings.limits.get("default")
    limits = (LimitSet(name, requests=default.requests),) if default and default.requests else ()
    route = Route(name, "/**", scopes=(scope,), limits=limits)
    return Policy((route,), ScopeTable(dict(settings.scopes)), {}, estimate=0)


def trusted_proxies(settings: Settings) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in settings.trusted_proxies)
