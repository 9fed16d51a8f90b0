"""The door's last resort: whatever goes wrong behind it becomes an explicit answer."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from google.rpc import code_pb2

from authz.adapters.envoy.check import CheckHandler
from authz.adapters.envoy.codec import encode
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.request import PlainRequest, Request
from authz.ports import StoreFault
from tests.support.envoy import PRINCIPAL, STYLE, check_request, response
from tests.support.tokens import FakeClock


MESSAGE: bytes = check_request(authorization="Bearer PLANTED-secret").SerializeToString()


@dataclass
class Recording:
    """Keeps what an observer is told."""

    told: list[tuple[Request, Decision, float]] = field(default_factory=list)

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None:
        self.told.append((request, decision, duration_s))


def answering(decision: Decision, clock: FakeClock) -> Callable[[Request], Awaitable[Decision]]:
    """Decides so, and takes a quarter of a second to do it."""

    async def decide(_: Request) -> Decision:
        clock.elapsed += 0.25
        return decision

    return decide


def raising(exc: BaseException) -> Callable[[Request], Awaitable[Decision]]:
    async def decide(_: Request) -> Decision:
        raise exc

    return decide


@pytest.mark.parametrize(
    "decision",
    [
        pytest.param(Allow(Reason.ALLOWED, "chat", PRINCIPAL), id="allow"),
        pytest.param(Allow(Reason.PUBLIC, "health"), id="public"),
        pytest.param(Deny(Reason.REVOKED, route="chat", principal=PRINCIPAL), id="deny"),
        pytest.param(Fault(Reason.STORE_UNAVAILABLE, "away", "chat"), id="fault"),
    ],
)
async def test_a_decision_is_answered_and_observed(decision: Decision) -> None:
    """What was decided is what Envoy reads and what the observer is told, with the request and how long it took."""
    clock, observer = FakeClock(), Recording()

    answer = await CheckHandler(answering(decision, clock), STYLE, clock, observer)(MESSAGE)

    assert answer == encode(decision, STYLE)
    [(request, observed, duration_s)] = observer.told
    assert (request.method, request.path) == ("GET", "/v1/models")
    assert observed is decision
    assert duration_s == 0.25


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff" * 20, id="garbage"),
        pytest.param(MESSAGE[:-1], id="cut short"),
    ],
)
async def test_what_is_no_check_is_a_bad_request(message: bytes) -> None:
    """It is refused with 400 and observed; nobody is asked to decide it."""
    observer = Recording()

    answer = response(await CheckHandler(raising(AssertionError()), STYLE, FakeClock(), observer)(message))

    assert answer.status.code == code_pb2.INVALID_ARGUMENT
    assert answer.denied_response.status.code == 400
    [(request, decision, _)] = observer.told
    assert request == PlainRequest("", "")
    assert isinstance(decision, Deny)
    assert decision.reason == Reason.BAD_REQUEST


@pytest.mark.parametrize(
    "exc",
    [
        pytest.param(RuntimeError("PLANTED-secret"), id="bug"),
        pytest.param(StoreFault("PLANTED-secret"), id="a fault that nobody caught"),
        pytest.param(TimeoutError(), id="time-out"),
        pytest.param(RecursionError(), id="recursion"),
        pytest.param(MemoryError(), id="memory"),
        pytest.param(ExceptionGroup("two", [ValueError("PLANTED-secret"), KeyError("x")]), id="group"),
        pytest.param(
            UnicodeDecodeError("utf-8", b"PLANTED-secret", 0, 1, "x"), id="a ValueError that is no NotACheckError"
        ),
    ],
)
async def test_an_exception_is_a_refusal(exc: Exception) -> None:
    """A bug of ours is an explicit 503, not an error that Envoy might let pass; its words are not for callers."""
    observer = Recording()

    message = await CheckHandler(raising(exc), STYLE, FakeClock(), observer)(MESSAGE)

    answer = response(message)
    assert answer.status.code == code_pb2.UNAVAILABLE
    assert answer.denied_response.status.code == 503
    assert b"PLANTED" not in message
    [(request, decision, _)] = observer.told
    assert request.path == "/v1/models"
    assert decision == Fault(Reason.INTERNAL_ERROR, type(exc).__name__)


async def test_an_exception_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the traceback, and not the credential of the request."""
    await CheckHandler(raising(RuntimeError("the bug")), STYLE, FakeClock(), Recording())(MESSAGE)

    [record] = caplog.records
    assert record.exc_info is not None
    assert "the bug" in caplog.text
    assert "PLANTED" not in caplog.text


async def test_cancellation_is_passed_on() -> None:
    """A check that its caller gave up is neither answered nor observed: nobody would read it."""
    observer, started = Recording(), asyncio.Event()

    async def decide(_: Request) -> Decision:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    task = asyncio.ensure_future(CheckHandler(decide, STYLE, FakeClock(), observer)(MESSAGE))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert observer.told == []
