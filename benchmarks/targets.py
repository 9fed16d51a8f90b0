"""What we set out to reach, beside what a run reached."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks import names
from benchmarks.figures import Section, Spread, ratios
from benchmarks.table import Table, spread


Sections = Mapping[str, Section]


@dataclass(frozen=True, slots=True)
class Target:
    """*floor*: what must be kept; *goal*: what is hoped for. `is_most`: these are the most that it may be."""

    what: str
    floor: float
    goal: float | None
    reached: Callable[[Sections], Spread | None]
    is_most: bool = False

    def is_met(self, middle: float, bound: float) -> bool:
        return middle <= bound if self.is_most else middle >= bound


def _ratio(section: str, row: str, name: str = "requests_per_s", to: str = "") -> Callable[[Sections], Spread | None]:
    def reached(sections: Sections) -> Spread | None:
        return ratios(sections[section], row, name, to) if section in sections else None

    return reached


def _median(section: str, row: str, name: str) -> Callable[[Sections], Spread | None]:
    def reached(sections: Sections) -> Spread | None:
        rounds = sections[section].rows.get(row) if section in sections else None
        return Spread.of(getattr(one, name) for one in rounds) if rounds else None

    return reached


_COMPILED: Final = names.FAST + names.COMPILED

TARGETS: Final = (
    Target("full check, one bucket, compiled", 0.78, 0.90, _ratio(names.SERVERS, _COMPILED)),
    Target("full check, one bucket, interpreted", 0.68, 0.80, _ratio(names.SERVERS, names.FAST)),
    Target(
        "three buckets and workspace revocation, compiled",
        *(0.70, 0.82),
        _ratio(names.MIXES, names.THREE + names.COMPILED),
    ),
    Target("tracing on, interpreted", 0.60, 0.75, _ratio(names.MIXES, names.TRACED)),
    Target("4 connections, compiled", 0.65, 0.75, _ratio(names.FEW, _COMPILED)),
    Target("against grpc.aio doing the same, interpreted", 4, 6, _ratio(names.SERVERS, names.FAST, to=names.GRPCIO)),
    Target("authz, CPU µs a check, compiled", 7, 4, _median(names.SERVERS, _COMPILED, "authz_us"), is_most=True),
    Target("authz, CPU µs a check, interpreted", 13, 8, _median(names.SERVERS, names.FAST, "authz_us"), is_most=True),
    Target("p99 to the ceiling's, compiled", 1.8, 1.3, _ratio(names.SERVERS, _COMPILED, "p99_ms"), is_most=True),
    Target("p99 to the ceiling's, interpreted", 1.8, 1.3, _ratio(names.SERVERS, names.FAST, "p99_ms"), is_most=True),
    Target("1,000,000 keys in the store against 100", 0.90, 0.97, _ratio(names.STORED, "1,000,000", to="100")),
    Target(
        "first-seen tokens against remembered ones",
        *(0.50, None),
        _ratio(names.MIXES, names.FIRST_SEEN, to=names.HUNDRED),
    ),
)


def table(sections: Sections) -> Table:
    rows = [["target", "floor", "goal", "reached (min to max)", ""]]
    for target in TARGETS:
        reached = target.reached(sections)
        rows.append([target.what, _bound(target, target.floor), _bound(target, target.goal), spread(reached)])
        rows[-1].append(_verdict(target, reached))
    return rows


def _bound(target: Target, bound: float | None) -> str:
    return "-" if bound is None else f"{'≤' if target.is_most else '≥'} {bound:g}"


def _verdict(target: Target, reached: Spread | None) -> str:
    if reached is None:
        return "not measured"
    if target.goal is not None and target.is_met(reached.middle, target.goal):
        return "goal"
    return "floor" if target.is_met(reached.middle, target.floor) else "missed"
