"""What a run measured, and how it is kept: `benchmarks/results/latest.json`, section by section."""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self


LATEST: Final = Path(__file__).parent / "results" / "latest.json"


_TROUBLE: Final = {
    "unexpected": "not answered as they should be",
    "faults": "faults or lost log entries, by authz's own count",
    "broken": "without an answer",
}


@dataclass(frozen=True, slots=True)
class Round:
    """
    One run of a load.

    Args:
        requests_per_s: Answered.
        p50_ms, p99_ms: As a client sees it; of an open loop from the moment at which a request was due.
        authz_us, envoy_us, store_us: CPU time a request; of a contender that is not authz, its own stands in the first.
        batch: Checks in one call to the store; 0: none was called.
        unexpected: Refused though they were good, or the other way round.
        faults: By authz's own count: 503 (the store, too many checks, a bug), and entries of the access log not booked.
        broken: Connections that failed, and answers that did not come.
        memory_mib: Of the authorizer, resident, afterwards.
    """

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    authz_us: float
    envoy_us: float
    store_us: float
    batch: float = 0.0
    unexpected: int = 0
    faults: int = 0
    broken: int = 0
    memory_mib: float = 0.0

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Self:
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in told.items() if name in known})


@dataclass(frozen=True, slots=True)
class Section:
    """
    Rows that were measured side by side, round by round.

    Args:
        conditions: Under which; in the order in which they are told.
        rows: By name; all have the same number of rounds.
        ceilings: Of each row, the one that it is compared to.
        notes: What else was seen.
    """

    conditions: dict[str, str] = field(default_factory=dict)
    rows: dict[str, list[Round]] = field(default_factory=dict)
    ceilings: dict[str, str] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spread:
    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        """Raises: ValueError — of nothing."""
        known = sorted(values)
        if not known:
            raise ValueError("a spread of nothing")
        return cls(known[0], statistics.median(known), known[-1])


def median(rounds: Iterable[Round], name: str) -> float:
    return Spread.of(getattr(one, name) for one in rounds).middle


def ratios(section: Section, row: str, name: str = "requests_per_s", to: str = "") -> Spread | None:
    """
    Of *row* to its ceiling (*to*: to that row), each round to its own, so that the machine's weather is in both. None:
    one of the two was not measured.
    """
    base = section.rows.get(to or section.ceilings.get(row, ""), [])
    pairs = zip(section.rows.get(row, []), base, strict=False)
    found = [getattr(one, name) / getattr(its, name) for one, its in pairs if getattr(its, name)]
    return Spread.of(found) if found else None


def trouble(section: Section) -> list[str]:
    """A line for each row in which something went wrong."""
    told = []
    for row, rounds in section.rows.items():
        counts = {what: sum(getattr(one, name) for one in rounds) for name, what in _TROUBLE.items()}
        if any(counts.values()):
            told.append(f"{row}: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    return told


def load(path: Path = LATEST) -> dict[str, Section]:
    """Sections by name; none where nothing was measured yet."""
    if not path.is_file():
        return {}
    told = json.loads(path.read_text("utf-8"))
    return {
        name: Section(
            conditions=section["conditions"],
            rows={row: [Round.read(one) for one in rounds] for row, rounds in section["rows"].items()},
            ceilings=section["ceilings"],
            notes=section["notes"],
        )
        for name, section in told.items()
    }


def save(sections: Mapping[str, Section], path: Path = LATEST) -> None:
    """Those measured now take the place of older ones; the others stay, with the conditions of their own run."""
    kept = load(path) | dict(sections)
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({name: asdict(section) for name, section in kept.items()}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", "utf-8")
