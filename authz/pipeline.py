"""
The request's one page: how a check is decided, step by step.

    extract → parse → verify (a JWT) or find (an opaque token) → look up → match → judge scope and the request itself
    → one step in the store

Local judgement comes first and costs the store nothing; one atomic step then tells revocation and key state, and spends
only if everything else passed. The answer follows the order of the steps, so a revoked key is told that it is revoked
before anything is said about scopes. The decision starts as a refusal; an `Allow` is made in three places, all below.
"""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from authz.core.admission import Admission, Admitted, Group, Status
from authz.core.bucket import US, Charge, Limit
from authz.core.claims import Claims
from authz.core.credential import Source, extract, names_one
from authz.core.decision import Allow, Decision, Deny, Fault, Grant, Reason, Refusal
from authz.core.keyformat import OpaqueToken, display_prefix, parse_token
from authz.core.keyrecord import KeyRecord, Rotation, tenant_of
from authz.core.policy import LimitSet, Policy, Route, is_ambiguous
from authz.core.principal import Principal
from authz.core.prompt import Prompt
from authz.core.recent import Recent
from authz.core.request import Request
from authz.core.rules import STAGE, Stage, judge, judge_prompt, must_read, scopes_for, stage_of, unjudgeable
from authz.core.settlement import Hold, Spent
from authz.ports import Clock, KeyRecords, Ledger, OpaqueTokens, OverloadFault, Prompts, StoreFault, Verifier


Shape = tuple[object, ...]

_REPLACED = "it was replaced when the key was rotated"
_EXTENSIONS = frozenset({"authz.scopes", "authz.limits", STAGE})
PLACES = 4096  # strangers choose paths, so there are few, and none is long
PLACE_CHARS = 256
PASSED = 20_000  # requests that are let in again by the store's word alone; some 2 kB each
ATTEMPTS = 3  # how often a record may change under one check before that is a fault


@dataclass(frozen=True, slots=True)
class CredentialRules:
    """
    Where credentials stand and how they look.

    Args:
        require_record: A token that the store never heard of is refused.
        sessions_alone: So is every API key: only users who have logged in are let in.
    """

    sources: tuple[Source, ...]
    refuse_in_query: frozenset[str]
    prefix: str
    require_record: bool
    sessions_alone: bool = False


@dataclass(frozen=True, slots=True)
class Presented:
    """What was presented, and what the store knows of it. `token`: which of the record's tokens it is; None: none."""

    claims: Claims
    record: KeyRecord | None
    token: Rotation | None

    @classmethod
    def of(cls, claims: Claims, record: KeyRecord | None) -> "Presented":
        return cls(claims, record, record.issued(claims.rotation, claims.digest) if record else None)


@dataclass(frozen=True, slots=True)
class Judged:
    """What is decided locally: who asks, for what, and whether they may. `denied` None: scopes and rules allow it."""

    presented: Presented
    principal: Principal
    route: Route | None
    limits: tuple[LimitSet, ...]
    required: tuple[str, ...]
    stage: Stage
    denied: Deny | None

    @property
    def looks(self) -> bool:
        """Another check will see the body, and spend."""
        return self.stage is Stage.HEADERS


class Body:
    """Of the request of one check: read at most once, however often the check is judged."""

    def __init__(self, body: bytes, prompts: Prompts) -> None:
        self._body = body
        self._prompts = prompts
        self._read: Prompt | Refusal | None = None

    async def read(self, key_id: str) -> Prompt | Refusal:
        """Raises: OverloadFault."""
        if self._read is None:
            self._read = await self._prompts.read(self._body, key_id)
        return self._read


@dataclass(frozen=True, slots=True)
class Passed:
    """
    A request that was let in, and what the store is asked to let it in again. All else is decided as before: the record
    that it was judged by is named in the question, and until *until_s* (s since 1970) the token is valid.
    """

    judged: Judged
    admit: Callable[[], Awaitable[Admitted]]
    grant: Grant
    tenant: str
    until_s: float


class Authorizer:
    """Decides checks, any number at a time on one event loop. Its one state: what it remembers of those it let in."""

    def __init__(
        self,
        *,
        policy: Policy,
        rules: CredentialRules,
        verifier: Verifier,
        opaque: OpaqueTokens,
        records: KeyRecords,
        ledger: Ledger,
        prompts: Prompts,
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._verifier = verifier
        self._opaque = opaque
        self._clock = clock
        self._records = records
        self._ledger = ledger
        self._prompts = prompts
        self._places: Recent[tuple[str, str], tuple[bool, Route | None]] = Recent(PLACES)
        self._passed: Recent[Shape, Passed] = Recent(PASSED)
        self._headers = tuple({source.header: None for source in rules.sources})
        self._missing = Refusal(Reason.MISSING_CREDENTIAL, _how_to_send(rules.sources))

    async def check(self, request: Request, *, spend: bool = True) -> Decision:
        """
        Decide *request*. `spend` False explains: everything is asked, nothing is charged.

        Never raises but for a bug; the servicer turns that into a fault.
        """
        ambiguous, route = self._place(request)
        if route is not None and route.public and not _is_tightened(request):
            return Allow(Reason.PUBLIC, route.name)
        shape = self._shape(request, route) if spend else None
        if shape is not None and (passed := self._passed.get(shape)):
            decision = await self._again(request, passed)
            if decision is not None:
                return decision
            self._passed.forget(shape)
        presented = self._authenticate(request)
        if isinstance(presented, Refusal):
            return _denied(presented, route)
        claims = presented if isinstance(presented, Claims) else None
        body = Body(request.body, self._prompts)
        try:
            if isinstance(presented, OpaqueToken):
                claims = await self._opaque.find(presented.value)
            if claims is None:
                return Deny(Reason.UNKNOWN_KEY, route=_name(route))
            return await self._decide(request, route, claims, body, ambiguous=ambiguous, spend=spend)
        except OverloadFault as fault:
            return Fault(Reason.OVERLOADED, str(fault), _name(route))
        except StoreFault as fault:
            return await self._without_store(request, route, claims, body, fault, ambiguous=ambiguous, spend=spend)

    def _place(self, request: Request) -> tuple[bool, Route | None]:
        """Whether the path is ambiguous, and the route. Remembered: the same paths are asked for again and again."""
        named = request.method, request.path
        place = self._places.get(named)
        if place is None:
            ambiguous = is_ambiguous(request.path)
            place = ambiguous, None if ambiguous else self._policy.match(request)
            if len(request.method) + len(request.path) <= PLACE_CHARS:
                self._places.put(named, place)
        return place

    def _shape(self, request: Request, route: Route | None) -> Shape | None:
        """All that judging a request without rules for its body depends on: two of one shape are judged alike."""
        if route is None or names_one(request.query, self._rules.refuse_in_query):
            return None
        context = request.context
        asked = (id(route), request.max_tokens, request.is_max_sure)  # routes live as long as what is remembered
        return (*asked, *map(request.headers.get, self._headers), *(context.items() if context else ()))

    async def _again(self, request: Request, passed: Passed) -> Decision | None:
        """Decide by the store's word alone; None: something has changed, so begin from the beginning."""
        if self._clock.now_s() >= passed.until_s:
            return None
        judged = passed.judged
        claims, principal = judged.presented.claims, judged.principal
        try:
            answer = await passed.admit()
        except OverloadFault as fault:
            return Fault(Reason.OVERLOADED, str(fault), _name(judged.route))
        except StoreFault as fault:
            body = Body(request.body, self._prompts)
            return await self._without_store(request, judged.route, claims, body, fault, ambiguous=False, spend=True)
        if answer.status is Status.ADMITTED:
            hold = self._hold(judged, passed.tenant, answer.now_us, passed.grant.spent, allowed=True)
            name = _name(judged.route)
            return Allow(Reason.ALLOWED, name, principal, answer.quotas, answer.now_us, hold=hold, grant=passed.grant)
        if answer.status is Status.LIMITED:
            return self._held(_conclude(judged, answer), judged, (), answer.now_us, spend=True)
        return None

    def _remember(self, request: Request, judged: Judged, admission: Admission, tenant: str) -> None:
        """What was let in. Not where the body counts: it is another each time."""
        if judged.stage is not Stage.ONLY or judged.route is None or judged.route.rules:
            return
        expires_s = judged.presented.claims.expires_at_s
        until_s = math.inf if expires_s is None else expires_s
        grant = Grant(judged.principal, _spent(admission.groups))
        admit = self._ledger.repeated(admission)
        if shape := self._shape(request, judged.route):
            self._passed.put(shape, Passed(judged, admit, grant, tenant, until_s))

    def _authenticate(self, request: Request) -> Claims | OpaqueToken | Refusal:
        found = extract(request, self._rules.sources, self._rules.refuse_in_query)
        if found is None:
            return self._missing
        if isinstance(found, Refusal):
            return found
        token = parse_token(found, self._rules.prefix)
        return self._verifier.verify(token) if isinstance(token, str) else token

    async def _decide(
        self, request: Request, route: Route | None, claims: Claims, body: Body, *, ambiguous: bool, spend: bool
    ) -> Decision:
        tenant = tenant_of(claims.workspace, claims.subject)
        fresh = False
        for _ in range(ATTEMPTS):
            record = await self._records.find(tenant, claims.record_id, fresh=fresh)
            presented = Presented.of(claims, record)
            refusal = self._key_refused(presented)
            if refusal and not fresh and _may_be_outdated(claims, record):
                fresh = True  # it may have been made, rotated or put right a moment ago
                continue
            judged = self._judge(request, route, presented, ambiguous=ambiguous)
            if isinstance(judged, Fault):
                return judged
            if refusal:
                denied = _denied(refusal, route, judged.principal if record else None)
                return self._held(denied, judged, spend=spend)
            judged = await self._body_judged(request, judged, body)
            if isinstance(judged, Fault):
                return judged
            admission = self._admission(tenant, judged, request, spend=spend)
            answer = await self._ledger.admit(admission)
            if _is_to_be_remembered(answer.status, claims):
                self._records.remember(tenant, _revoked(claims, record))
            if answer.status not in {Status.STALE, Status.NO_RECORD}:
                decision = _conclude(judged, answer)
                if isinstance(decision, Allow) and spend:
                    self._remember(request, judged, admission, tenant)
                return self._held(decision, judged, admission.groups, answer.now_us, spend=spend)
            fresh = True
        return Fault(Reason.STORE_UNAVAILABLE, "the key's record kept changing under the check", _name(route))

    def _key_refused(self, presented: Presented) -> Refusal | None:
        claims, record = presented.claims, presented.record
        if record is None:
            needed = self._rules.require_record or claims.is_session or bool(claims.digest)
            return Refusal(Reason.UNKNOWN_KEY) if needed else None
        if record.version < 0:
            return Refusal(Reason.REVOKED)
        if (record.kind == "user") != claims.is_session:
            return Refusal(Reason.WRONG_KIND)
        if self._rules.sessions_alone and not claims.is_session:
            return Refusal(Reason.WRONG_KIND, "send the session token of a user who has logged in")
        if (record.subject, record.workspace) != (claims.subject, claims.workspace):
            return Refusal(Reason.BAD_CLAIMS, "it names another owner than the key's record")
        if presented.token is None:
            is_later = claims.rotation > record.current.number and not claims.digest
            return Refusal(Reason.UNKNOWN_KEY) if is_later else Refusal(Reason.REVOKED, _REPLACED)
        return None

    def _judge(self, request: Request, route: Route | None, presented: Presented, *, ambiguous: bool) -> Judged | Fault:
        """
        Route, scope and rules, but for what the body says, by what is known locally. An Envoy route may ask for more by
        its context extensions.
        """
        principal = _principal(presented.claims, presented.record, self._rules.prefix)
        name = _name(route)
        limits = self._limits(request, route)
        if limits is None or not _EXTENSIONS.issuperset(ext for ext in request.context if ext.startswith("authz.")):
            return Fault(Reason.INTERNAL_ERROR, "context_extensions of the Envoy route name what is not there", name)
        stage, rules = stage_of(request.context), route.rules if route else ()
        if stage is None:
            return Fault(Reason.INTERNAL_ERROR, f"{STAGE} of the Envoy route is neither 'headers' nor 'body'", name)
        if why := unjudgeable(rules, request, stage):
            return Fault(Reason.INTERNAL_ERROR, why, name)
        required = (*(route.scopes if route else ()), *_asked_by_envoy(request, "authz.scopes"))
        denied = None
        if ambiguous:
            denied = Deny(Reason.AMBIGUOUS_PATH, route=name, principal=principal)
        elif route is None:
            denied = Deny(Reason.NO_ROUTE, principal=principal)
        elif not self._policy.scopes.covers(principal.scopes, required):
            denied = Deny(Reason.INSUFFICIENT_SCOPE, route=name, principal=principal, required=required)
        elif refusal := judge(rules, request, stage):
            denied = _denied(refusal, route, principal)
        return Judged(presented, principal, route, limits, required, stage, denied)

    async def _body_judged(self, request: Request, judged: Judged, body: Body) -> Judged | Fault:
        """The last of the local judgement, as it alone costs much: what the body says, its scopes before its rules."""
        rules, route, principal = judged.route.rules if judged.route else (), judged.route, judged.principal
        if judged.denied or not must_read(rules, request, judged.stage):
            return judged
        try:
            prompt = await body.read(principal.key_id)
        except OverloadFault as fault:
            return Fault(Reason.OVERLOADED, str(fault), _name(route))
        if isinstance(prompt, Refusal):
            return replace(judged, denied=_denied(prompt, route, principal))
        required = tuple(dict.fromkeys((*judged.required, *scopes_for(rules, prompt))))
        if not self._policy.scopes.covers(principal.scopes, required):
            denied = Deny(Reason.INSUFFICIENT_SCOPE, route=_name(route), principal=principal, required=required)
            return replace(judged, denied=denied)
        refusal = judge_prompt(rules, prompt)
        return replace(judged, denied=_denied(refusal, route, principal)) if refusal else judged

    def _limits(self, request: Request, route: Route | None) -> tuple[LimitSet, ...] | None:
        limits = route.limits if route else ()
        for name in _asked_by_envoy(request, "authz.limits"):
            if name not in self._policy.limits:
                return None
            if self._policy.limits[name] not in limits:
                limits = (*limits, self._policy.limits[name])
        return limits

    def _admission(self, tenant: str, judged: Judged, request: Request, *, spend: bool) -> Admission:
        claims, record = judged.presented.claims, judged.presented.record
        # What only looks must not refuse what the next check, which may know the request's own maximum, lets pass.
        estimate = min(1, self._policy.estimate) if judged.looks and spend else self._policy.estimate
        costs = TokenCosts(request.max_tokens, estimate, request.is_max_sure)
        groups = () if judged.denied else _groups(judged.limits, judged.principal, record, costs)
        return Admission(
            tenant=tenant,
            key_id=claims.record_id,
            version=record.version if record else 0,
            issued_us=_issued_us(claims, record),
            dead_us=self._dead_us(judged.presented),
            subject=claims.subject,
            workspace=claims.workspace,
            groups=groups,
            spend=spend and judged.denied is None and not judged.looks,
        )

    @staticmethod
    def _dead_us(presented: Presented) -> int:
        """From when on the credential is dead, by the store's clock, which needs no leeway; 0: never."""
        record, token = presented.record, presented.token
        ends = []
        if record is not None and record.expires_at_us is not None:
            ends.append(record.expires_at_us)
        if token is not None and token.ends_at_us is not None:
            ends.append(token.ends_at_us)
        return min(ends, default=0)

    def _held(
        self,
        decision: Decision,
        judged: Judged,
        groups: tuple[Group, ...] = (),
        at_us: int | None = None,
        *,
        spend: bool,
    ) -> Decision:
        """*decision*, with what is to be settled once the request is over. *at_us* None: the store was not asked."""
        if not spend or isinstance(decision, Fault) or decision.principal is None:
            return decision
        if isinstance(decision, Allow) and decision.preliminary:
            return decision  # the next check is the one that counts
        claims, allowed = judged.presented.claims, isinstance(decision, Allow)
        at_us = round(self._clock.now_s() * US) if at_us is None else at_us
        tenant, spent = tenant_of(claims.workspace, claims.subject), _spent(groups) if allowed else ()
        return replace(decision, hold=self._hold(judged, tenant, at_us, spent, allowed=allowed))

    def _hold(self, judged: Judged, tenant: str, at_us: int, spent: tuple[Spent, ...], *, allowed: bool) -> Hold:
        principal = judged.principal
        recorded = judged.presented.record is not None
        number = self._ledger.number(tenant)
        named = principal.key_id, principal.prefix, principal.subject, principal.workspace
        return Hold(number, at_us, *named, allowed=allowed, recorded=recorded, spent=spent)

    async def _without_store(
        self,
        request: Request,
        route: Route | None,
        claims: Claims | None,
        body: Body,
        fault: StoreFault,
        *,
        ambiguous: bool,
        spend: bool,
    ) -> Decision:
        """
        `on_error: allow` lets pass what signature, claims and scopes allow, and what is not remembered as dead.

        A store that lost its memory lets nothing pass; sessions, and opaque tokens that were never seen, do not either.
        """
        if not self._policy.open_on_error or not fault.trustworthy or claims is None or claims.is_session:
            return Fault(Reason.STORE_UNAVAILABLE, str(fault), _name(route))
        record = self._records.remembered(tenant_of(claims.workspace, claims.subject), claims.record_id)
        if record is None and claims.digest:
            return Fault(Reason.STORE_UNAVAILABLE, str(fault), _name(route))
        presented = Presented.of(claims, record)
        judged = self._judge(request, route, presented, ambiguous=ambiguous)
        if isinstance(judged, Fault):
            return judged
        dead_us = self._dead_us(presented)
        if record and (refusal := self._key_refused(presented)):
            return self._held(_denied(refusal, route, judged.principal), judged, spend=spend)
        if dead_us and self._clock.now_s() * US >= dead_us:
            dead = Deny(Reason.EXPIRED, route=_name(route), principal=judged.principal)
            return self._held(dead, judged, spend=spend)
        judged = await self._body_judged(request, judged, body)
        if isinstance(judged, Fault):
            return judged
        allowed = Allow(Reason.ALLOWED, _name(route), judged.principal, degraded=True, preliminary=judged.looks)
        return self._held(judged.denied or allowed, judged, spend=spend)


def _conclude(judged: Judged, answer: Admitted) -> Decision:
    """The store's answer and the local judgement, in the order of the steps."""
    route, principal = _name(judged.route), judged.principal
    match answer.status:
        case Status.REVOKED | Status.REVOKED_IN_BULK:
            return Deny(Reason.REVOKED, route=route, principal=principal)
        case Status.EXPIRED if _is_replaced(judged.presented.token, answer.now_us):
            return Deny(Reason.REVOKED, _REPLACED, route, principal)
        case Status.EXPIRED:
            return Deny(Reason.EXPIRED, route=route, principal=principal)
        case Status.ADMITTED if judged.denied is None:
            return Allow(Reason.ALLOWED, route, principal, answer.quotas, answer.now_us, preliminary=judged.looks)
        case Status.ADMITTED | Status.LIMITED if judged.denied is not None:
            return judged.denied
        case Status.LIMITED:
            return Deny(
                Reason.RATE_LIMITED,
                route=route,
                principal=principal,
                quotas=answer.quotas,
                refused=answer.refused,
                retry_after_us=answer.wait_us,
                now_us=answer.now_us,
            )
        case _:
            return Fault(Reason.INTERNAL_ERROR, f"the ledger answered {answer.status!r}", route, principal)


def _may_be_outdated(claims: Claims, record: KeyRecord | None) -> bool:
    """Whether reading the record again could change a refusal: not once it is revoked, or the token replaced."""
    if record is None:
        return True
    return record.version > 0 and (bool(claims.digest) or claims.rotation >= record.current.number)


def _is_replaced(token: Rotation | None, now_us: int) -> bool:
    return token is not None and token.ends_at_us is not None and now_us >= token.ends_at_us


def _issued_us(claims: Claims, record: KeyRecord | None) -> int:
    """A key is as old as its record, however often it was rotated; a session is as old as its own token."""
    if record is None or claims.is_session:
        return round(claims.issued_at_s * US)
    return record.created_at_us


def _is_to_be_remembered(status: Status, claims: Claims) -> bool:
    """A bulk revocation ends a user's sessions, and not the user."""
    return status is Status.REVOKED or (status is Status.REVOKED_IN_BULK and not claims.is_session)


def _revoked(claims: Claims, record: KeyRecord | None) -> KeyRecord:
    """To be remembered for when the store is away; a token without a record is given one for this."""
    if record is None:
        record = KeyRecord(claims.record_id, "", "jwt", "", claims.subject, claims.workspace)
    return replace(record, version=-max(1, abs(record.version)))


def _principal(claims: Claims, record: KeyRecord | None, prefix: str) -> Principal:
    """The record's scopes where there is one: they can be changed, a token's cannot."""
    if record is not None:
        return Principal(record.id, record.prefix, record.subject, record.workspace, record.scopes)
    shown = display_prefix(prefix, claims.record_id) or ""
    return Principal(claims.record_id, shown, claims.subject, claims.workspace, claims.scopes or ())


@dataclass(frozen=True, slots=True)
class TokenCosts:
    """What a request is guessed to cost: the most that it asks for, else the configured estimate."""

    asked: int | None
    estimate: int
    is_sure: bool

    def of(self, bucket: Limit | None) -> int:
        """
        From *bucket*. A guess of ours must not make a small one unusable; what was asked for may never fit. Nonsense
        beside what was asked for makes nothing cheaper.
        """
        if bucket is None:
            return 0
        guess = min(self.estimate, bucket.capacity)
        if self.asked is None:
            return guess
        return self.asked if self.is_sure else max(self.asked, guess)


def _groups(
    limits: tuple[LimitSet, ...], principal: Principal, record: KeyRecord | None, costs: TokenCosts
) -> tuple[Group, ...]:
    """
    What a request is charged. A key's own limits replace, bucket by bucket, those of the limit `default`, or of the
    route's first limit counted per key where `default` is not among them.
    """
    own = record.limits if record else {}
    mine = [limit for limit in limits if limit.per == "key"]
    overridden = next((limit for limit in mine if limit.name == "default"), mine[0] if mine else None)
    groups = []
    for limit in limits:
        requests, tokens = limit.requests, limit.tokens
        if limit is overridden:
            requests, tokens = own.get("requests", requests), own.get("tokens", tokens)
        owner = {
            "key": f"k:{principal.key_id}",
            "subject": f"s:{principal.workspace}\0{principal.subject}",  # no name holds a NUL
            "workspace": f"w:{principal.workspace}" if principal.workspace else f"s:{principal.subject}",
        }[limit.per]
        groups.append(Group(limit.name, owner, Charge(requests, 1), Charge(tokens, costs.of(tokens))))
    return tuple(groups)


def _spent(groups: tuple[Group, ...]) -> tuple[Spent, ...]:
    return tuple(
        Spent(group.limit, group.owner, group.tokens.limit, group.tokens.cost) for group in groups if group.tokens.limit
    )


def _denied(refusal: Refusal, route: Route | None, principal: Principal | None = None) -> Deny:
    return Deny(refusal.reason, refusal.hint, _name(route), principal)


def _asked_by_envoy(request: Request, extension: str) -> tuple[str, ...]:
    """What the Envoy route asks for beyond ours, by its `context_extensions`: names, parted by commas or spaces."""
    return tuple(request.context.get(extension, "").replace(",", " ").split())


def _is_tightened(request: Request) -> bool:
    """A route that is public to us is not where Envoy's own asks for something."""
    asked = {extension for extension in request.context if extension.startswith("authz.")}
    return bool(asked - {STAGE}) or stage_of(request.context) is None


def _name(route: Route | None) -> str:
    return route.name if route else ""


def _how_to_send(sources: tuple[Source, ...]) -> str:
    def way(source: Source) -> str:
        header = source.header.title().replace("-Api-", "-API-")
        return f"'{header}: {source.scheme.capitalize()} KEY'" if source.scheme else f"'{header}: KEY'"

    return f"send it as {' or '.join(way(source) for source in sources)}"
