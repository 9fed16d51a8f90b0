"""What the pipeline makes of a store that misbehaves in ways that a real one cannot be brought to on demand."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from authz.core.admission import Admission, Admitted, Status
from authz.core.claims import Claims
from authz.core.credential import Source
from authz.core.decision import Allow, Decision, Deny, Fault, Reason, Refusal
from authz.core.keyrecord import KeyRecord
from authz.core.policy import Policy, Route
from authz.core.prompt import Prompt
from authz.core.request import PlainRequest
from authz.core.rules import RequestRule
from authz.core.scope import ScopeTable
from authz.core.settlement import DecisionId
from authz.pipeline import ATTEMPTS, Authorizer, CredentialRules
from authz.ports import OverloadFault, StoreFault
from tests.support.tokens import FakeClock


RECORD = KeyRecord("key_1", "", "jwt", "sk-live-0", "alice", "", ("read-only",), version=1)
CLAIMS = Claims("alice", "key_1", "", ("read-only",), 0.0, None, None)
REQUEST = PlainRequest("GET", "/v1/x", headers={"authorization": f"Bearer sk-live-a.b.{'c' * 43}"})
SAYS_NOTHING = Prompt(0, streams=False)
ASKING = replace(REQUEST, method="POST", path="/asks", body=b"{}", context={"authz.stage": "body"})


class Verified:
    """Every token is alice's."""

    def verify(self, _token: str) -> Claims | Refusal:
        return CLAIMS


@dataclass
class Records:
    """Answers *record*, or raises it."""

    record: KeyRecord | StoreFault | None
    asked: int = 0

    async def find(self, _tenant: str, _key_id: str, *, fresh: bool = False) -> KeyRecord | None:
        self.asked += fresh
        if isinstance(self.record, StoreFault):
            raise self.record
        return self.record

    def remembered(self, _tenant: str, _key_id: str) -> KeyRecord | None:
        return None if isinstance(self.record, StoreFault) else self.record

    def remember(self, _tenant: str, record: KeyRecord) -> None:
        self.record = record


class OnlyRemembered(Records):
    """The store is away."""

    async def find(self, _tenant: str, _key_id: str, *, fresh: bool = False) -> KeyRecord | None:
        raise StoreFault("away")


class NoOpaque:
    async def find(self, _token: str) -> Claims | None:
        return None


@dataclass
class Ledger:
    """Answers *answer*, or raises it."""

    answer: Admitted | StoreFault

    async def admit(self, _admission: Admission) -> Admitted:
        if isinstance(self.answer, StoreFault):
            raise self.answer
        return self.answer

    def repeated(self, admission: Admission) -> Callable[[], Awaitable[Admitted]]:
        return partial(self.admit, admission)

    def number(self, _tenant: str) -> DecisionId:
        return DecisionId(b"sixsix", 0, 0)


@dataclass
class Bodies:
    """Says *said* of each, or raises it; keeps whose it was asked about."""

    said: Prompt | OverloadFault = SAYS_NOTHING
    asked: list[str] = field(default_factory=list)

    async def read(self, _body: bytes, key_id: str) -> Prompt | Refusal:
        self.asked.append(key_id)
        if isinstance(self.said, OverloadFault):
            raise self.said
        return self.said


async def decide(
    records: Records,
    answer: Admitted | StoreFault,
    *,
    open_on_error: bool = False,
    request: PlainRequest = REQUEST,
    bodies: Bodies | None = None,
) -> Decision:
    asks = Route("asks", "/asks", scopes=("read-only",), rules=(RequestRule("rule", max_prompt=5),))
    authorizer = Authorizer(
        policy=Policy(
            (Route("read", "/v1/**", scopes=("read-only",)), asks),
            ScopeTable({"read-only": ()}),
            {},
            open_on_error=open_on_error,
        ),
        rules=CredentialRules((Source("authorization", "bearer"),), frozenset(), "sk-live-", True),
        verifier=Verified(),
        opaque=NoOpaque(),
        clock=FakeClock(),
        records=records,
        ledger=Ledger(answer),
        prompts=bodies or Bodies(),
    )
    return await authorizer.check(request)


@pytest.mark.parametrize("status", [Status.STALE, Status.NO_RECORD])
async def test_a_record_that_keeps_changing_ends_in_a_fault(status: Status) -> None:
    """Not in a loop, and not in a pass."""
    records = Records(RECORD)

    decision = await decide(records, Admitted(status))

    assert isinstance(decision, Fault)
    assert (decision.reason, records.asked) == (Reason.STORE_UNAVAILABLE, ATTEMPTS - 1)


@pytest.mark.parametrize("open_on_error", [False, True])
async def test_overload_is_a_refusal_in_either_mode(*, open_on_error: bool) -> None:
    """A flood must not open the door that `on_error: allow` opens for an outage."""
    decision = await decide(Records(RECORD), OverloadFault("full"), open_on_error=open_on_error)

    assert decision == Fault(Reason.OVERLOADED, "full", "read")


@pytest.mark.parametrize(
    ("records", "fault", "expected"),
    [
        pytest.param(Records(RECORD), StoreFault("away"), Allow, id="remembered"),
        pytest.param(Records(StoreFault("away")), StoreFault("away"), Allow, id="not remembered"),
        pytest.param(
            Records(KeyRecord("key_1", "", "jwt", "", "alice", "", version=-2)), StoreFault(""), Deny, id="revoked"
        ),
        pytest.param(Records(RECORD), StoreFault("emptied", trustworthy=False), Fault, id="untrustworthy"),
    ],
)
async def test_open_on_error(records: Records, fault: StoreFault, expected: type[Decision]) -> None:
    decision = await decide(records, fault, open_on_error=True)

    assert isinstance(decision, expected)
    assert getattr(decision, "degraded", True) is True


async def test_an_answer_that_is_none_is_a_fault() -> None:
    """`NOT_OURS` is the ledger's to raise; should it come through, it is no pass."""
    decision = await decide(Records(RECORD), Admitted(Status.NOT_OURS))

    assert isinstance(decision, Fault)


async def test_an_unknown_limit_of_an_envoy_route_fails_closed_without_the_store_too() -> None:
    tightened = replace(REQUEST, context={"authz.limits": "nope"})

    decision = await decide(Records(RECORD), StoreFault("away"), open_on_error=True, request=tightened)

    assert isinstance(decision, Fault)
    assert decision.reason is Reason.INTERNAL_ERROR


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        pytest.param(replace(RECORD, version=-2), Reason.REVOKED, id="revoked"),
        pytest.param(replace(RECORD, kind="user"), Reason.WRONG_KIND, id="another kind"),
        pytest.param(replace(RECORD, subject="bob"), Reason.BAD_CLAIMS, id="another owner"),
        pytest.param(replace(RECORD, expires_at_us=1), Reason.EXPIRED, id="expired"),
    ],
)
async def test_nothing_of_a_refused_keys_body_is_read_without_the_store(record: KeyRecord, reason: Reason) -> None:
    bodies = Bodies()

    decision = await decide(
        OnlyRemembered(record), StoreFault("away"), open_on_error=True, request=ASKING, bodies=bodies
    )

    assert (decision.reason, bodies.asked) == (reason, [])


async def test_nothing_of_a_revoked_keys_body_is_read() -> None:
    bodies, revoked = Bodies(), Records(replace(RECORD, version=-2))

    decision = await decide(revoked, Admitted(Status.ADMITTED), request=ASKING, bodies=bodies)

    assert (decision.reason, bodies.asked) == (Reason.REVOKED, [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(Admitted(Status.ADMITTED), Reason.ALLOWED, id="admitted"),
        pytest.param(Admitted(Status.STALE), Reason.STORE_UNAVAILABLE, id="a record that keeps changing"),
        pytest.param(StoreFault("away"), Reason.ALLOWED, id="without the store"),
    ],
)
async def test_a_body_is_read_once(answer: Admitted | StoreFault, expected: Reason) -> None:
    """However often the check is judged."""
    bodies = Bodies()

    decision = await decide(Records(RECORD), answer, open_on_error=True, request=ASKING, bodies=bodies)

    assert (decision.reason, bodies.asked) == (expected, ["key_1"])


@pytest.mark.parametrize("records", [Records(RECORD), OnlyRemembered(RECORD)])
async def test_a_body_that_cannot_wait_is_refused_with_the_store_and_without(records: Records) -> None:
    full = Bodies(OverloadFault("full"))

    decision = await decide(records, Admitted(Status.ADMITTED), open_on_error=True, request=ASKING, bodies=full)

    assert decision == Fault(Reason.OVERLOADED, "full", "asks")
