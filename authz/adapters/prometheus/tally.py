"""
What every check counts, in plain numbers: prometheus-client's own counters and histograms lock and look up at each,
which costs more than the rest of an observation. One thread counts and is asked.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from authz.core.decision import Reason


CHECK_BUCKETS_S: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5)


class CheckTally(Collector):
    """`estimated`: tokens spent ahead."""

    def __init__(self) -> None:
        self.estimated = 0
        self._durations = [0] * (len(CHECK_BUCKETS_S) + 1)  # by bucket; the last is +Inf
        self._total_s = 0.0
        self._decisions: Counter[tuple[Reason, str]] = Counter()

    def timed(self, duration_s: float) -> None:
        self._durations[bisect_left(CHECK_BUCKETS_S, duration_s)] += 1
        self._total_s += duration_s

    def decided(self, reason: Reason, route: str) -> None:
        self._decisions[reason, route] += 1

    def collect(self) -> Iterator[Metric]:
        decisions = CounterMetricFamily("authz_decisions", "Checks decided.", labels=["reason", "route"])
        for (reason, route), count in self._decisions.items():
            decisions.add_metric([reason.value, route], count)
        yield decisions
        bounds = (*map(floatToGoString, CHECK_BUCKETS_S), "+Inf")
        buckets = list(zip(bounds, map(float, accumulate(self._durations)), strict=True))
        yield HistogramMetricFamily(
            "authz_check_duration_seconds", "A check, from its bytes to its answer's.", buckets, self._total_s
        )
        yield CounterMetricFamily("authz_estimated_tokens", "Tokens spent ahead, by estimate.", self.estimated)
