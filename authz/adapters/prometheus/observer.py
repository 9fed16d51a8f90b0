"""
What is counted. Labels come from closed sets alone: reasons, route names of the configuration, operations of ours;
never a key, a subject or a path.
"""

from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from authz.adapters.prometheus.tally import CHECK_BUCKETS_S, CheckTally
from authz.core.decision import Allow, Decision, Deny, Reason
from authz.core.event import Event
from authz.core.request import Request
from authz.core.settlement import Booked, Booking, Finished
from authz.core.usage import MAX_MODELS, OTHER


LAG_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0)
STORE_STATES: Final = ("up", "down", "empty", "foreign")


class _TokenCache(Collector):
    def __init__(self, hits: Callable[[], float], misses: Callable[[], float]) -> None:
        self._hits = hits
        self._misses = misses

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("authz_token_cache_hits", "Tokens found verified already.", self._hits())
        yield CounterMetricFamily("authz_token_cache_misses", "Tokens verified anew.", self._misses())


class PrometheusObserver:
    """Implements `Observer`, `SettlementObserver`, `StoreObserver` and `AuditObserver`."""

    def __init__(self, version: str, *, compiled: bool) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each that nobody asks for
        self._registry = CollectorRegistry()
        r = self._registry
        self._checks = CheckTally()
        r.register(self._checks)
        self._limited = Counter("authz_rate_limited", "Checks refused by a limit.", ["limit"], registry=r)
        self._malformed = Counter(
            "authz_malformed_requests", "CheckRequests that describe no HTTP request.", registry=r
        )
        self._degraded = Counter("authz_degraded_decisions", "Checks allowed without asking the store.", registry=r)
        self._store_s = Histogram(
            "authz_store_duration_seconds", "A call to the store.", ["operation"], buckets=CHECK_BUCKETS_S, registry=r
        )
        self._store_errors = Counter(
            "authz_store_errors", "Calls to the store that failed.", ["operation", "fault"], registry=r
        )
        self._batch = Histogram(
            "authz_store_batch_checks", "Checks in one call to the store.", buckets=(1, 2, 4, 8, 12, 16), registry=r
        )
        self._store_state = Gauge("authz_store_state", "1 for the state the store is in.", ["state"], registry=r)
        self._changes = Counter("authz_admin_changes", "Changes of keys and users made here.", ["action"], registry=r)
        self._generation = Gauge("authz_config_generation", "Configurations accepted since the start.", registry=r)
        self._refused_reloads = Counter(
            "authz_config_reloads_refused", "Configurations that had a fault; the one before serves on.", registry=r
        )
        self._measure_settlement()
        build = Gauge("authz_build_info", "1; the labels tell.", ["version", "compiled"], registry=r)
        build.labels(version, str(compiled).lower()).set(1)
        self._generation.set(1)
        for state in STORE_STATES:
            self._store_state.labels(state).set(0)

    def _measure_settlement(self) -> None:
        r = self._registry
        self._settlements = Counter(
            "authz_settlements", "Requests booked, by how their cost was found.", ["outcome", "result"], registry=r
        )
        self._lag_s = Histogram(
            "authz_settlement_lag_seconds", "From a request's end to its booking.", buckets=LAG_BUCKETS_S, registry=r
        )
        self._dropped = Counter("authz_log_entries_dropped", "Access log entries not booked.", ["why"], registry=r)
        self._corrected = Counter("authz_estimated_tokens_settled", "Of these, those settled since.", registry=r)
        self._overdrafts = Counter("authz_overdrafts", "Requests that cost more than was spent ahead.", registry=r)
        self._overdrawn = Counter("authz_overdraft_tokens", "By how many tokens.", registry=r)
        self._tokens = Counter("authz_tokens", "Tokens, as upstreams told them.", ["model", "direction"], registry=r)
        self._models: set[str] = {OTHER}

    def count_waiting(self, waiting: Callable[[], float]) -> None:
        """Read when asked for."""
        gauge = Gauge("authz_settlement_waiting", "Finished requests that wait to be booked.", registry=self._registry)
        gauge.set_function(waiting)

    def count_tokens(self, hits: Callable[[], float], misses: Callable[[], float]) -> None:
        """Read when asked for, so that the hot path counts with plain integers."""
        self._registry.register(_TokenCache(hits, misses))

    def reloaded(self, *, accepted: bool) -> None:
        (self._generation if accepted else self._refused_reloads).inc()

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None:
        self._checks.timed(duration_s)
        if isinstance(decision, Allow):
            if decision.preliminary:
                return  # a request counts once: by the next check
            if decision.degraded:
                self._degraded.inc()
            if decision.hold is not None:
                self._checks.estimated += decision.hold.estimate
        elif isinstance(decision, Deny) and decision.refused is not None:
            self._limited.labels(f"{decision.refused.name}.{decision.refused.unit}").inc()
        elif decision.reason is Reason.BAD_REQUEST and not request.method:
            self._malformed.inc()
        self._checks.decided(decision.reason, decision.route or "none")

    def finished(self, finished: Finished) -> None:
        """The log's business."""

    def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
        self._settlements.labels(booking.outcome.value, booked.name.lower()).inc()
        if booked not in {Booked.BOOKED, Booked.DAMAGED}:
            return
        self._lag_s.observe(lag_s)
        self._corrected.inc(booking.hold.estimate)
        overdraft = max(booking.corrections, default=0)
        if overdraft > 0:
            self._overdrafts.inc()
            self._overdrawn.inc(overdraft)
        if booking.input_tokens or booking.output_tokens:
            model = self._model(booking.model)
            self._tokens.labels(model, "input").inc(booking.input_tokens)
            self._tokens.labels(model, "output").inc(booking.output_tokens)

    def _model(self, name: str) -> str:
        """Names come from outside: the first ones have a series of their own."""
        if name not in self._models:
            if len(self._models) > MAX_MODELS:
                return OTHER
            self._models.add(name)
        return name

    def entry_dropped(self, why: str) -> None:
        self._dropped.labels(why).inc()

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        if fault is None:
            self._store_s.labels(operation).observe(duration_s)
        else:
            self._store_errors.labels(operation, fault).inc()

    def batch_sent(self, checks: int) -> None:
        self._batch.observe(checks)

    def store_state(self, state: str) -> None:
        for name in STORE_STATES:
            self._store_state.labels(name).set(name == state)

    def changed(self, event: Event) -> None:
        self._changes.labels(event.action).inc()

    def exposition(self) -> tuple[bytes, str]:
        return generate_latest(self._registry), CONTENT_TYPE_PLAIN_1_0_0
