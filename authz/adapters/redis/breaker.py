"""A circuit breaker: while the store is known to be away, checks are not made to wait for it."""

from typing import Final


FAILURES: Final = 5
OPEN_S: Final = 0.25


class Breaker:
    """
    Opens after `FAILURES` time-outs or lost connections in a row; then lets one call through every `OPEN_S`.

    Pure but for its counts: the caller brings the time (monotonic seconds).
    """

    def __init__(self) -> None:
        self._failures = 0
        self._next_probe_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= FAILURES

    def admits(self, now_s: float) -> bool:
        if not self.is_open:
            return True
        if now_s < self._next_probe_s:
            return False
        self._next_probe_s = now_s + OPEN_S  # this caller is the probe
        return True

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, now_s: float) -> None:
        self._failures += 1
        self._next_probe_s = now_s + OPEN_S
