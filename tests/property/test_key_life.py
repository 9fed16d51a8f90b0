"""
The life of keys and users on a real store, at random, against a plain model: a token works if and only if the model
says so, at the very next check, on each of two sidecars whose caches are warm.
"""

import asyncio
import base64
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import pytest
from argon2 import PasswordHasher
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from authz.adapters.argon2.hasher import Argon2Hasher
from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import SESSION_TYPE
from authz.adapters.redis.users import RedisUserRegistry
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import MAX_TOKENS, Everything, KeyChanges, KeyConflictError, NewKey
from authz.admin.users import Login, NewUser, NoSuchUserError, Session, UserAdmin, UserExistsError, WrongPasswordError
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Reason
from authz.core.keyrecord import KeyState
from authz.core.listing import Filter
from authz.pipeline import Authorizer
from tests.support import stores
from tests.support.parts import SCOPES, SECRET, Parts, configuration, parts, pipeline, request


OPERATIONS: Final = 1_000
LONG_S: Final = 86_400
FOREVER_US: Final = 2**62
SUBJECTS = ("", "alice", "bob", "carol")  # carol is a user, too
WORKSPACES = ("", "acme", "umbrella")
USERS = ("carol", "dave")
PASSWORDS = ("correct horse", "battery staple")
GRANTS = ((), ("read-only",), ("read-write",), ("admin",), ("read-only", "admin"))
ASKED = {"/any": (), "/read": ("read-only",), "/write": ("read-write",), "/admin": ("admin",)}
ROUTES = [{"name": path[1:], "path": path, "scopes": list(scopes)} for path, scopes in ASKED.items()]
CONFIGURATION = configuration(routes=ROUTES, limits={}, keys={"accept_sessions": True})

sidecars = st.sampled_from([0, 1])
any_of_them = st.integers(0, 10**6)  # modulo how many there are
grants = st.sampled_from(GRANTS)
bulk = st.sampled_from(
    [
        *(Everything(subject=subject) for subject in (*SUBJECTS[1:], *USERS)),
        *(Everything(workspace=workspace) for workspace in WORKSPACES[1:]),
        *(Everything(subject, workspace) for subject in SUBJECTS[1:] for workspace in WORKSPACES[1:]),
    ]
)


@dataclass
class Token:
    """`issued_us`: of a session, which bulk revocations go by. `ends_us`: as promised when it was replaced."""

    value: str
    alive: bool = True
    issued_us: int = 0
    ends_us: int = FOREVER_US


@dataclass
class Key:
    """`ended`: revoked by its id, before anything in bulk reached it."""

    id: str
    kind: str
    name: str
    subject: str
    workspace: str
    scopes: tuple[str, ...]
    created_us: int
    tokens: list[Token]
    limits: dict[str, Limit] = field(default_factory=dict)
    ended: bool = False

    @property
    def revoked(self) -> bool:
        return not any(token.alive for token in self.tokens)

    def revoke(self) -> None:
        for token in self.tokens:
            token.alive = False


@dataclass
class User:
    name: str
    workspace: str
    scopes: tuple[str, ...]
    password: str
    sessions: list[Token] = field(default_factory=list)
    removed: bool = False

    def end_sessions(self, upto_us: int = FOREVER_US) -> None:
        for session in self.sessions:
            session.alive = session.alive and session.issued_us > upto_us


@dataclass
class Sidecar:
    made: Parts
    authorizer: Authorizer
    hasher: Argon2Hasher
    users: UserAdmin
    login: Login


def sidecar(made: Parts) -> Sidecar:
    hasher = Argon2Hasher(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    registry = RedisUserRegistry(made.store)
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)), "portal", SESSION_TYPE)
    users = UserAdmin(registry, hasher, SCOPES, made.observer, made.admin)
    login = Login(registry, hasher, made.ledger, signer, LONG_S, None, None)
    return Sidecar(made, pipeline(CONFIGURATION, made), hasher, users, login)


def issued_us(jwt: str) -> int:
    payload = jwt.split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iat"] * 1_000_000)


class KeyLife(RuleBasedStateMachine):
    """Two sidecars on one store, and what should be true of every token that was ever made."""

    operations: ClassVar[Counter[str]] = Counter()

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = contextlib.AsyncExitStack()
        self.sidecars: list[Sidecar] = []
        self.keys: list[Key] = []
        self.users: list[User] = []
        self.events: Counter[str] = Counter()
        self.changed: list[Token] = []  # by the last step: checked from every side
        self.turn = 0
        stores.flush(url)
        self.runner.run(self._start(url))

    async def _start(self, url: str) -> None:
        for _ in range(2):
            made = await self.stack.enter_async_context(parts(url))
            self.sidecars.append(sidecar(made))
            self.stack.callback(self.sidecars[-1].hasher.close)
        for number in (0, 1):
            for kind in ("jwt", "opaque"):
                await self._create(number, NewKey("test", SUBJECTS[number], WORKSPACES[number], GRANTS[1], kind=kind))
            await self._add(number, NewUser(USERS[number], WORKSPACES[number], GRANTS[1]), PASSWORDS[0])
            await self._log_in(1 - number, self.users[number], PASSWORDS[0])

    def teardown(self) -> None:
        try:
            self.runner.run(self._compare_lists())
        finally:
            self.runner.run(self.stack.aclose())
            self.runner.close()

    def do(self, name: str, operation: Any) -> Any:
        self.operations[name] += 1
        return self.runner.run(operation)

    def key(self, which: int) -> Key:
        return self.keys[which % len(self.keys)]

    # --- keys

    @rule(
        where=sidecars,
        kind=st.sampled_from(["jwt", "opaque"]),
        subject=st.sampled_from(SUBJECTS),
        workspace=st.sampled_from(WORKSPACES),
        scopes=grants,
    )
    def create(self, where: int, kind: str, subject: str, workspace: str, scopes: tuple[str, ...]) -> None:
        self.do("create", self._create(where, NewKey("test", subject, workspace, scopes, kind=kind)))

    async def _create(self, where: int, new: NewKey) -> None:
        issued = await self.sidecars[where].made.create(new)
        record = issued.record
        made = Token(issued.token)
        self.keys.append(
            Key(
                id=record.id,
                kind=record.kind,
                name=new.name,
                subject=record.subject,
                workspace=new.workspace,
                scopes=new.scopes,
                created_us=record.created_at_us,
                tokens=[made],
            )
        )
        self.events["create"] += 1
        self.changed = [made]

    @rule(
        where=sidecars,
        which=any_of_them,
        changes=st.fixed_dictionaries(
            {},
            optional={
                "scopes": grants,
                "name": st.sampled_from(["test", "renamed"]),
                "limits": st.sampled_from([{}, {"requests": Limit(5, 60)}]),
            },
        ),
    )
    def update(self, where: int, which: int, changes: dict[str, Any]) -> None:
        key = self.key(which)
        told = self.do(
            "update", self._told(self.sidecars[where].made.admin.update(key.id, KeyChanges(changes), COMMAND_LINE))
        )
        assert told == key.revoked
        if not told:
            self.events["update"] += any(getattr(key, name) != value for name, value in changes.items())
            for name, value in changes.items():
                setattr(key, name, value)
        self.changed = key.tokens

    @rule(where=sidecars, which=any_of_them, grace_s=st.sampled_from([0, LONG_S, LONG_S, LONG_S // 2, LONG_S * 2]))
    def rotate(self, where: int, which: int, grace_s: int) -> None:
        """The earlier tokens die at once, or live on; at most so many at a time."""
        key = self.key(which)
        alive = [token for token in key.tokens if token.alive] if grace_s else []
        impossible = key.revoked or len(alive) >= MAX_TOKENS
        issued: list[Any] = []
        told = self.do(
            "rotate", self._told(self.sidecars[where].made.admin.rotate(key.id, grace_s, COMMAND_LINE), issued)
        )
        assert told == impossible
        if not told:
            ends = {one.number: one.ends_at_us for one in issued[0].record.rotations}
            longest_us = issued[0].record.current.issued_at_us + grace_s * 1_000_000
            for number, token in enumerate(key.tokens):
                token.alive = token in alive
                if token.alive:
                    assert ends[number] == min(longest_us, token.ends_us)
                    token.ends_us = min(longest_us, token.ends_us)
            key.tokens.append(Token(issued[0].token))
            self.events["rotate"] += 1
        self.changed = key.tokens

    @staticmethod
    async def _told(change: Any, answer: list[Any] | None = None) -> bool:
        """Whether it is told that this cannot be done to the key as it is."""
        try:
            (answer if answer is not None else []).append(await change)
        except KeyConflictError:
            return True
        return False

    @rule(where=sidecars, which=any_of_them, twice=st.booleans())
    def revoke(self, where: int, which: int, twice: bool) -> None:
        key = self.key(which)
        for place in (where, 1 - where)[: 1 + twice]:
            shown = self.do("revoke", self.sidecars[place].made.revoke(key.id, f"by {place}"))
            assert shown.revoked_at_us is not None
        self.events["revoke"] += not key.revoked
        key.ended = key.ended or not key.revoked
        key.revoke()
        self.changed = key.tokens

    @rule(where=sidecars, wanted=bulk | st.sampled_from(["subject", "workspace", "everything"]), which=any_of_them)
    def revoke_all(self, where: int, wanted: Everything | str, which: int) -> None:
        """Up to now; or up to the very moment in which one of the keys was made, of its like. Users stay."""
        if isinstance(wanted, str):
            key = self.key(which)
            subject = key.subject if wanted == "subject" else ""
            wanted = Everything(subject, key.workspace if wanted == "workspace" else "", key.created_us)
        self._revoke_all(where, wanted)

    def _revoke_all(self, where: int, wanted: Everything) -> None:
        self.do("revoke_all", self.sidecars[where].made.admin.revoke_all(wanted, COMMAND_LINE))
        upto_us = FOREVER_US if wanted.issued_before_us is None else wanted.issued_before_us
        self.changed = []

        def is_meant(subject: str, workspace: str) -> bool:
            return wanted.subject in {"", subject} and wanted.workspace in {"", workspace}

        for key in self.keys:
            if is_meant(key.subject, key.workspace) and key.created_us <= upto_us:
                key.revoke()
                self.changed += key.tokens
        for user in self.users:
            if is_meant(user.name, user.workspace):
                user.end_sessions(upto_us)
                self.changed += user.sessions
        self.events["revoke_all"] += 1

    # --- users

    def user(self, name: str) -> User | None:
        return next((one for one in self.users if one.name == name and not one.removed), None)

    @rule(
        where=sidecars,
        name=st.sampled_from(USERS),
        workspace=st.sampled_from(WORKSPACES),
        scopes=grants,
        password=st.sampled_from(PASSWORDS),
    )
    def add_user(self, where: int, name: str, workspace: str, scopes: tuple[str, ...], password: str) -> None:
        self.do("add_user", self._add(where, NewUser(name, workspace, scopes), password))

    async def _add(self, where: int, new: NewUser, password: str) -> None:
        assert await self._added(where, new, password) == (self.user(new.name) is None)
        if self.user(new.name) is None:
            self.users.append(User(new.name, new.workspace, new.scopes, password))
            self.events["user_add"] += 1

    async def _added(self, where: int, new: NewUser, password: str) -> bool:
        try:
            await self.sidecars[where].users.add(new, password, COMMAND_LINE)
        except UserExistsError:
            return False
        return True

    @rule(where=sidecars, name=st.sampled_from(USERS), password=st.sampled_from(PASSWORDS))
    def change_password(self, where: int, name: str, password: str) -> None:
        """To the same one, too: it ends every session."""
        user = self.user(name)
        unknown = self.do(
            "passwd", self._unknown(self.sidecars[where].users.set_password(name, password, COMMAND_LINE))
        )
        assert unknown == (user is None)
        if user is not None:
            user.password = password
            user.end_sessions()
            self.events["user_passwd"] += 1
            self.changed = user.sessions

    @rule(where=sidecars, name=st.sampled_from(USERS))
    def remove_user(self, where: int, name: str) -> None:
        user = self.user(name)
        unknown = self.do("remove", self._unknown(self.sidecars[where].users.remove(name, COMMAND_LINE)))
        assert unknown == (user is None)
        if user is not None:
            user.removed = True
            user.end_sessions()
            self.events["user_remove"] += 1
            self.changed = [*user.sessions]
            ended = [
                key
                for key in self.keys
                if (key.subject, key.workspace) == (user.name, user.workspace) and not key.revoked
            ]
            for key in ended:
                key.ended = True
                key.revoke()
                self.changed += key.tokens
            self.events["revoke_all"] += bool(ended)

    @staticmethod
    async def _unknown(change: Any) -> bool:
        try:
            await change
        except NoSuchUserError:
            return True
        return False

    @rule(where=sidecars, which=any_of_them, right=st.sampled_from([True, True, True, False]))
    def log_in(self, where: int, which: int, right: bool) -> None:
        """As anybody who is or was a user."""
        user = self.users[which % len(self.users)]
        wrong = next(one for one in PASSWORDS if one != user.password)
        self.do("login", self._log_in(where, user, user.password if right else wrong))

    async def _log_in(self, where: int, was: User, password: str) -> None:
        session = await self._session(where, was.name, password)
        user = self.user(was.name)
        assert (session is not None) == (user is not None and user.password == password)
        if user is not None and session is not None:
            user.sessions.append(Token(session.token, issued_us=issued_us(session.token)))
            self.changed = user.sessions[-1:]

    async def _session(self, where: int, name: str, password: str) -> Session | None:
        try:
            session = await self.sidecars[where].login(name, password, "127.0.0.1")
        except WrongPasswordError:
            return None
        assert isinstance(session, Session)
        return session

    # --- what must be true

    @invariant()
    def every_token_works_if_and_only_if_it_should(self) -> None:
        """On both sidecars at once; what was just changed is asked for on every route, the rest on one in turn."""
        if self.sidecars:
            self.runner.run(self._check_all())
        self.changed = []
        self.turn += 1

    async def _check_all(self) -> None:
        owners: list[tuple[str, tuple[str, ...], list[Token]]] = [
            *((key.id, key.scopes, key.tokens) for key in self.keys),
            *((user.name, user.scopes, user.sessions) for user in self.users),
        ]
        asked = [
            (owner, scopes, token, path, number)
            for owner, scopes, tokens in owners
            for token in tokens
            for path in (ASKED if token in self.changed else [[*ASKED][self.turn % len(ASKED)]])
            for number in (0, 1)
        ]
        answers = await asyncio.gather(
            *(
                self.sidecars[number].authorizer.check(request(token.value, path=path))
                for _, _, token, path, number in asked
            )
        )
        for (owner, scopes, token, path, number), answer in zip(asked, answers, strict=True):
            expected = _expected(scopes, token, path)
            if answer.reason is not expected:
                note(f"{owner} on sidecar {number}, {path}: {answer}")
            assert answer.reason is expected
            assert _told_scopes(answer) in {None, scopes}

    async def _compare_lists(self) -> None:
        """What is listed, on either sidecar, and what was written down of it."""
        for each in self.sidecars:
            now_us = await each.made.store.now_us()
            listed = {record.id: record for record in await each.made.list()}
            assert set(listed) == {key.id for key in self.keys}
            for key in self.keys:
                record = listed[key.id]
                assert (record.state(now_us) is KeyState.REVOKED, record.version < 0) == (key.revoked, key.ended)
                assert (record.name, record.scopes, dict(record.limits)) == (key.name, key.scopes, key.limits)
                assert record.current.number == len(key.tokens) - 1
            known = sorted((user.name, user.workspace, user.scopes) for user in self.users if not user.removed)
            assert [(one.name, one.workspace, one.scopes) for one in await each.users.all()] == known
            assert await self._written(each.made) == +self.events

    @staticmethod
    async def _written(made: Parts) -> Counter[str]:
        found: Counter[str] = Counter()
        token = ""
        while True:
            page = await made.admin.events(Filter({}), 500, token, COMMAND_LINE)
            found.update(str(event.action) for event in page.events)
            token = page.next_token
            if not token:
                return found


def _expected(scopes: tuple[str, ...], token: Token, path: str) -> Reason:
    if not token.alive:
        return Reason.REVOKED
    return Reason.ALLOWED if SCOPES.covers(scopes, ASKED[path]) else Reason.INSUFFICIENT_SCOPE


def _told_scopes(answer: Decision) -> tuple[str, ...] | None:
    return answer.principal.scopes if isinstance(answer, Allow) and answer.principal else None


def test_a_token_works_if_and_only_if_it_should(valkey_server: stores.Server) -> None:
    """To have a failure cut down to the steps that matter, which takes minutes, add `Phase.shrink`."""
    KeyLife.operations.clear()
    run_state_machine_as_test(
        lambda: KeyLife(valkey_server.url),  # type: ignore[arg-type]
        settings=settings(
            max_examples=26,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
        ),
    )

    assert KeyLife.operations.total() >= OPERATIONS
    assert len(KeyLife.operations) == 9  # of every kind


async def test_what_expired_is_revoked_with_the_rest(valkey_url: str) -> None:
    """A key of a subject in a workspace that had expired when both were revoked does not come back by a later end."""
    async with parts(valkey_url) as made:
        mine = await made.create(NewKey("test", "alice", "acme", ("read-only",)))
        ends_us = await made.store.now_us() + 20_000
        await made.admin.update(mine.record.id, KeyChanges({"expires_at_us": ends_us}), COMMAND_LINE)
        while await made.store.now_us() <= ends_us:
            pass

        await made.admin.revoke_all(Everything("alice", "acme"), COMMAND_LINE)
        with contextlib.suppress(KeyConflictError):
            later_us = await made.store.now_us() + 10**9
            await made.admin.update(mine.record.id, KeyChanges({"expires_at_us": later_us}), COMMAND_LINE)

        answer = await pipeline(CONFIGURATION, made).check(request(mine.token, path="/read"))
        assert answer.reason is Reason.REVOKED


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(Everything(subject="alice"), id="subject"),
        pytest.param(Everything(workspace="acme"), id="workspace"),
        pytest.param(Everything("alice", "acme"), id="both"),
    ],
)
async def test_a_bulk_revocation_ends_sessions_too(valkey_url: str, wanted: Everything) -> None:
    """Whoever names the subject, the workspace or both, as an administrator bound to a workspace always does."""
    async with parts(valkey_url) as made:
        await made.create(NewKey("the first"))
        each = sidecar(made)
        await each.users.add(NewUser("alice", "acme", ("admin",)), PASSWORDS[0], COMMAND_LINE)
        before = await each.login("alice", PASSWORDS[0], "127.0.0.1")

        await made.admin.revoke_all(wanted, COMMAND_LINE)
        after = await each.login("alice", PASSWORDS[0], "127.0.0.1")

        assert isinstance(before, Session)
        assert isinstance(after, Session)
        reasons = [(await each.authorizer.check(request(one.token, path="/any"))).reason for one in (before, after)]
        assert reasons == [Reason.REVOKED, Reason.ALLOWED]
        each.hasher.close()
