"""What is counted and logged: every decision, closed labels, no credential."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from authz.adapters.logs import setup
from authz.adapters.logs.observer import LogObserver
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.core.bucket import Limit, Quota
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.principal import Principal
from authz.core.request import Request


DOCS = Path(__file__).parents[2] / "docs"
SECRET = "sk-live-planted"
REQUEST = Request("POST", "/v1/x", f"api_key={SECRET}", {"authorization": f"Bearer {SECRET}", "x-request-id": "r1"})
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
    page = (DOCS / "operations.md").read_text()
    families = {family.name for family in text_string_to_metric_families(observer.exposition()[0].decode())}
    table = page.split("| metric |")[1].split("\n\n")[0]
    named = {word.strip("`").removesuffix("_total") for word in table.split() if word.strip("`,").startswith("authz_")}

    assert {name.strip("`,").removesuffix("_total") for name in named} == families


def test_the_page_of_errors_names_every_reason() -> None:
    page = (DOCS / "errors.md").read_text()

    assert [reason for reason in Reason if f"`{reason}`" not in page] == []
