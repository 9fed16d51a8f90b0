"""Measured rows as tables: aligned for a terminal, or in Markdown for docs/performance.md."""

from collections.abc import Sequence
from typing import Final

from benchmarks.figures import Round, Section, Spread, median, ratios


CEILING: Final = "of the ceiling (min to max)"
FIRST: Final = "of the first (min to max)"
CLOSED: Final = (
    "requests/s",
    "p50 / p99 ms",
    "CPU µs a request: authz / Envoy / store",
    "checks a call",
)
OPEN: Final = ("", "requests/s", "p50 ms (min to max)", "p99 ms (min to max)")

Table = list[list[str]]


def closed(section: Section, compared: str = CEILING) -> Table:
    """As fast as the connections go. *compared*: to what, and so the title of that column."""
    return [["", compared, *CLOSED], *([row, *_closed(section, row, rounds)] for row, rounds in section.rows.items())]


def _closed(section: Section, row: str, rounds: Sequence[Round]) -> list[str]:
    cpu = (f"{median(rounds, part):.1f}" for part in ("authz_us", "envoy_us", "store_us"))
    batch = median(rounds, "batch")
    return [
        spread(ratios(section, row)),
        f"{median(rounds, 'requests_per_s'):,.0f}",
        f"{median(rounds, 'p50_ms'):.1f} / {median(rounds, 'p99_ms'):.1f}",
        " / ".join(cpu),
        f"{batch:.1f}" if batch else "-",
    ]


def open_loop(section: Section) -> Table:
    """At a rate that does not wait for answers."""
    table = [list(OPEN)]
    for row, rounds in section.rows.items():
        p50, p99 = (Spread.of(getattr(one, name) for one in rounds) for name in ("p50_ms", "p99_ms"))
        table.append([row, f"{median(rounds, 'requests_per_s'):,.0f}", spread(p50), spread(p99)])
    return table


def spread(of: Spread | None) -> str:
    """Two digits behind the point are all that a busy machine gives."""
    return f"{of.middle:.2f} ({of.low:.2f} to {of.high:.2f})" if of else "-"


def aligned(table: Table) -> str:
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(table: Table) -> str:
    head, *rows = table
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def told(conditions: dict[str, str]) -> str:
    """In one sentence."""
    return "; ".join(f"{name} {value}".strip() for name, value in conditions.items())
