"""What is counted and logged: every decision, closed labels, no credential."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from authz.adapters.logs import setup
from authz.adapters.logs.observer import LogObserver
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.core.bucket import Limit, Quota
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.principal import Principal
from authz.core.request import PlainRequest
from authz.core.settlement import Booked, TokenUsage, booking
from authz.core.usage import MAX_MODELS
from tests.support.settlement import FINISHED, HOLD, REFUSED


DOCS = Path(__file__).parents[2] / "docs"
SECRET = "sk-live-planted"
REQUEST = PlainRequest(
    "POST", "/v1/x", f"api_key={SECRET}", {"authorization": f"Bearer {SECRET}", "x-request-id": "r1"}
)
WHO = Principal("key_1", "sk-live-00000000", "alice", "acme", ("read-only",))
QUOTA = Quota("default", "tokens", Limit(5, 60), 0, 10)
DECISIONS = [
    pytest.param(Allow(Reason.ALLOWED, "read", WHO, (QUOTA,)), "debug", id="allowed"),
    pytest.param(Allow(Reason.ALLOWED, "read", WHO, degraded=True), "warning", id="degraded"),
    pytest.param(Deny(Reason.REVOKED, route="read", principal=WHO), "info", id="denied"),
    pytest.param(Deny(Reason.RATE_LIMITED, route="read", principal=WHO, refused=QUOTA), "info", id="limited"),
    pytest.param(Fault(Reason.STORE_UNAVAILABLE, "away", "read"), "warning", id="fault"),
]


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("authz")
    before = (root.handlers[:], root.level, ours.level)
    setup.configure("debug", stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.mark.parametrize(("decision", "level"), DECISIONS)
def test_one_line_a_decision(lines: io.StringIO, decision: Decision, level: str) -> None:
    LogObserver().decided(REQUEST, decision, 0.0123)

    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert (line["level"], line["reason"], line["duration_ms"]) == (level, decision.reason.value, 12.3)
    assert (line["path"], line["request_id"]) == ("/v1/x", "r1")
    assert (line.get("key_id") == "key_1") == (decision.principal is not None)
    assert line.get("limit") == ("default.tokens" if decision.reason is Reason.RATE_LIMITED else None)
    assert SECRET not in lines.getvalue()


def test_a_traceback_is_one_line(lines: io.StringIO) -> None:
    try:
        int("two\nlines")
    except ValueError:
        logging.getLogger("authz.x").exception("oops")

    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert "ValueError: invalid literal" in line["traceback"]


def counted(observer: PrometheusObserver) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(observer.exposition()[0].decode())
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


@pytest.mark.parametrize(("decision", "_level"), DECISIONS)
def test_every_decision_is_counted(decision: Decision, _level: str) -> None:
    observer = PrometheusObserver("1", compiled=False)

    observer.decided(REQUEST, decision, 0.01)

    got = counted(observer)
    assert got[("authz_decisions_total", (("reason", decision.reason.value), ("route", "read")))] == 1
    assert got[("authz_check_duration_seconds_count", ())] == 1
    limited = ("authz_rate_limited_total", (("limit", "default.tokens"),))
    assert got.get(limited) == (1 if decision.reason is Reason.RATE_LIMITED else None)
    assert got[("authz_degraded_decisions_total", ())] == float(getattr(decision, "degraded", False))
    assert SECRET not in observer.exposition()[0].decode()


def test_one_state_of_the_store_at_a_time() -> None:
    observer = PrometheusObserver("1", compiled=False)

    for state in ("up", "down", "foreign"):
        observer.store_state(state)
        states = {
            labels[0][1]: value for (name, labels), value in counted(observer).items() if name == "authz_store_state"
        }
        assert [name for name, value in states.items() if value] == [state]


def test_the_page_of_metrics_names_them_all_and_no_others() -> None:
    observer = PrometheusObserver("1", compiled=False)
    observer.count_tokens(lambda: 1, lambda: 2)
    observer.count_waiting(lambda: 0)
    page = (DOCS / "operations.md").read_text()
    families = {family.name for family in text_string_to_metric_families(observer.exposition()[0].decode())}
    table = page.split("| metric |")[1].split("\n\n")[0]
    named = {word.strip("`").removesuffix("_total") for word in table.split() if word.strip("`,").startswith("authz_")}

    assert {name.strip("`,").removesuffix("_total") for name in named} == families


def test_the_page_of_errors_names_every_reason() -> None:
    page = (DOCS / "errors.md").read_text()

    assert [reason for reason in Reason if f"`{reason}`" not in page] == []


def test_one_line_a_finished_request(lines: io.StringIO) -> None:
    LogObserver().finished(replace(FINISHED, model="gpt-x", usage=TokenUsage(3, 30), request_id="r1", route="write"))

    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert (line["logger"], line["level"], line["event"]) == ("authz.access", "info", "request")
    told = {name: value for name, value in line.items() if name not in {"logger", "level", "event", "time"}}
    assert told == {
        "started": "2026-11-18T11:06:40Z",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "duration_ms": 1500.0,
        "route": "write",
        "request_id": "r1",
        "model": "gpt-x",
        "user": "user-1",
        "workspace": "acme",
        "key_id": HOLD.key_id,
        "key_prefix": "sk-live-1a2b3c4d",
        "decision_id": "010203040506-17-42",
        "input_tokens": 3,
        "output_tokens": 30,
    }


def test_a_line_for_nobody_and_for_an_answer_cut_short(lines: io.StringIO) -> None:
    LogObserver().finished(replace(FINISHED, hold=None, is_complete=False))

    (line,) = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert line["cut_short"] is True
    assert not {"user", "key_id", "input_tokens"} & set(line)


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
PLANTED = (f"sk-live-{JWT}", JWT, "sk-live-" + "Zq9" * 15, "alice@example.com", "password=hunter2", "bob:hunter2@host")


@pytest.mark.parametrize("secret", PLANTED)
def test_no_secret_reaches_the_line_of_a_request(lines: io.StringIO, secret: str) -> None:
    hold = replace(HOLD, subject=secret, workspace=secret)
    request_id = "x" + secret

    LogObserver().finished(
        replace(FINISHED, hold=hold, path=f"/v1/{secret}/x", model=secret, asked_model=secret, request_id=request_id)
    )

    for part in (secret, JWT, "hunter2", "alice", "Zq9Zq9"):
        assert part not in lines.getvalue()


@pytest.mark.parametrize("booked", Booked)
def test_what_was_not_settled_as_told_is_told(lines: io.StringIO, booked: Booked) -> None:
    LogObserver().settled(booking(FINISHED, HOLD), booked, 0.25)

    told = [json.loads(text) for text in lines.getvalue().splitlines()]
    assert [line["result"] for line in told] == ([] if booked is Booked.BOOKED else [booked.name.lower()])


def test_settlement_is_counted() -> None:
    observer = PrometheusObserver("1", compiled=False)
    less = booking(replace(FINISHED, model="gpt-x", usage=TokenUsage(3, 30)), HOLD)
    more = booking(replace(FINISHED, model="gpt-x", usage=TokenUsage(100, 500)), HOLD)

    observer.decided(REQUEST, Allow(Reason.ALLOWED, "read", WHO, hold=HOLD), 0.01)
    observer.decided(REQUEST, Deny(Reason.RATE_LIMITED, route="read", principal=WHO, hold=REFUSED), 0.01)
    for made, booked in ((less, Booked.BOOKED), (more, Booked.BOOKED), (more, Booked.REPEATED), (more, Booked.LATE)):
        observer.settled(made, booked, 0.2)
    observer.settled(booking(FINISHED, REFUSED), Booked.BOOKED, 0.2)
    observer.entry_dropped("malformed")

    got = counted(observer)
    assert got[("authz_estimated_tokens_total", ())] == 500
    assert got[("authz_estimated_tokens_settled_total", ())] == 1000
    assert (got[("authz_overdrafts_total", ())], got[("authz_overdraft_tokens_total", ())]) == (1, 100)
    assert got[("authz_tokens_total", (("direction", "input"), ("model", "gpt-x")))] == 103
    assert got[("authz_tokens_total", (("direction", "output"), ("model", "gpt-x")))] == 530
    assert got[("authz_settlements_total", (("outcome", "usage"), ("result", "booked")))] == 2
    assert got[("authz_settlements_total", (("outcome", "usage"), ("result", "repeated")))] == 1
    assert got[("authz_settlements_total", (("outcome", "denied"), ("result", "booked")))] == 1
    assert got[("authz_settlement_lag_seconds_count", ())] == 3
    assert got[("authz_log_entries_dropped_total", (("why", "malformed"),))] == 1


def test_models_have_a_bounded_number_of_series() -> None:
    observer = PrometheusObserver("1", compiled=False)

    for number in range(3 * MAX_MODELS):
        told = replace(FINISHED, model=f"m{number}", usage=TokenUsage(1, 0))
        observer.settled(booking(told, HOLD), Booked.BOOKED, 0.1)

    inputs = {
        dict(labels)["model"]: value
        for (name, labels), value in counted(observer).items()
        if name == "authz_tokens_total" and dict(labels)["direction"] == "input"
    }
    assert len(inputs) == MAX_MODELS + 1
    assert inputs["other"] == 2 * MAX_MODELS
