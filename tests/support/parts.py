"""The product's own parts, put together for a test as the composition root does."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import CacheCounts
from authz.adapters.logs.silent import Silent
from authz.adapters.redis.client import CLUSTER, Store, connect
from authz.adapters.redis.ledger import RedisLedger
from authz.adapters.redis.records import CachedRecords
from authz.adapters.redis.registry import RedisKeyRegistry
from authz.admin.actor import COMMAND_LINE, Actor
from authz.admin.keys import Everything, IssuedKey, KeyAdmin, NewKey
from authz.admin.retention import Retention
from authz.app import StoreParts, SystemClock, authorizer
from authz.core.admission import Admission, Group
from authz.core.bucket import Charge, Limit
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter
from authz.core.pepper import Peppers
from authz.core.request import PlainRequest
from authz.core.scope import ScopeTable
from authz.core.settlement import Booking, DecisionId, Hold, Outcome, Spent
from authz.pipeline import Authorizer
from authz.settings import Configuration, Settings


SECRET = "a secret for tests that is long enough, as RFC 7518 wants it"
CLOCK = SystemClock()
PEPPER = "a pepper for tests that is long enough: as long as a digest is"
SCOPES = ScopeTable({"admin": ("read-write",), "read-write": ("read-only",)})


@dataclass
class Counting(Silent):
    """Keeps what a store observer is told."""

    batches: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def batch_sent(self, checks: int) -> None:
        self.batches.append(checks)

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        if fault is not None:
            self.faults.append(fault)


@dataclass
class Parts:
    """One sidecar's worth of adapters on one store."""

    url: str
    store: Store
    observer: Counting
    ledger: RedisLedger
    records: CachedRecords
    registry: RedisKeyRegistry
    admin: KeyAdmin

    async def create(self, new: NewKey, actor: Actor = COMMAND_LINE) -> IssuedKey:
        return await self.admin.create(new, actor)

    async def revoke(self, key: str, reason: str = "", actor: Actor = COMMAND_LINE) -> KeyRecord:
        return (await self.admin.revoke(key, reason, actor))[0]

    async def revoke_subject(self, subject: str) -> None:
        await self.admin.revoke_all(Everything(subject=subject), COMMAND_LINE)

    async def revoke_workspace(self, workspace: str) -> None:
        await self.admin.revoke_all(Everything(workspace=workspace), COMMAND_LINE)

    async def show(self, key: str) -> KeyRecord:
        return await self.admin.show(key, COMMAND_LINE)

    async def list(self) -> "list[KeyRecord]":
        """Every key, newest first, by small pages."""
        found: list[KeyRecord] = []
        token = ""
        while True:
            page = await self.admin.page(Filter({}), 7, token, COMMAND_LINE)
            found += page.records
            token = page.next_token
            if not token:
                return found


@contextlib.asynccontextmanager
async def parts(url: str, timeout_s: float = 2.0) -> AsyncIterator[Parts]:
    observer = Counting()
    store = Store(connect(url), timeout_s=timeout_s, is_cluster=url.startswith(CLUSTER), clock=CLOCK, observer=observer)
    registry = RedisKeyRegistry(store)
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)))
    kept = Retention(registry, None)
    admin = KeyAdmin(registry, signer, Peppers((PEPPER.encode(),)), "sk-live-", "jwt", SCOPES, observer, kept)
    made = Parts(url, store, observer, RedisLedger(store, CLOCK, observer), CachedRecords(store), registry, admin)
    try:
        yield made
    finally:
        await made.ledger.close()
        await store.close()


def configuration(**settings: object) -> Configuration:
    """A configuration with `settings` in place of the defaults."""
    return Configuration(Settings.model_validate(settings), "test", (SECRET.encode(),), (PEPPER.encode(),))


def pipeline(configured: Configuration, made: Parts) -> Authorizer:
    return authorizer(configured, StoreParts(made.store, made.ledger, made.records, CacheCounts()), CLOCK)


def request(token: str | None, method: str = "GET", path: str = "/v1/models", **context: str) -> PlainRequest:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return PlainRequest(
        method, path, headers=headers, context={f"authz.{name}": value for name, value in context.items()}
    )


def admission(record: KeyRecord, *groups: Group, spend: bool = True, **changes: int) -> Admission:
    """What the pipeline would ask for *record*."""
    return Admission(
        tenant=tenant_of(record.workspace, record.subject),
        key_id=record.id,
        version=changes.get("version", record.version),
        issued_us=changes.get("issued_us", record.created_at_us),
        dead_us=changes.get("dead_us", 0),
        subject=record.subject,
        workspace=record.workspace,
        groups=groups,
        spend=spend,
    )


def group(
    owner: str, requests: Limit | None, tokens: Limit | None = None, cost: int = 1, name: str = "default"
) -> Group:
    return Group(name, owner, Charge(requests, cost if requests else 0), Charge(tokens, cost if tokens else 0))


def hold(
    decision: DecisionId, at_us: int, *spent: Spent, key: str = "key_1", subject: str = "", **told: object
) -> Hold:
    """What a decision about *key* left behind. *told*: workspace, allowed, recorded."""
    fields: dict[str, object] = {"workspace": "", "allowed": True, "recorded": True, **told}
    return Hold(decision, at_us, key, "sk-live-x", subject, spent=spent, **fields)  # type: ignore[arg-type]


def booking(
    held: Hold, *corrections: int, model: str = "m", names_model: bool = True, tokens: tuple[int, int] = (0, 0)
) -> Booking:
    """*corrections*: of the first buckets that were spent from; none of the others."""
    outcome = Outcome.USAGE if held.allowed else Outcome.DENIED
    rest = (0,) * (len(held.spent) - len(corrections))
    model = model if held.allowed else ""
    return Booking(held, outcome, model, names_model and held.allowed, *tokens, (*corrections, *rest))
