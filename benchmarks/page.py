"""docs/performance.md, between its markers, and its plots: nothing stands there that no run has printed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks import names, svg, table, targets
from benchmarks.figures import Section, Spread, median, ratios


PAGE: Final = Path(__file__).parents[1] / "docs" / "performance.md"
MARKED: Final = re.compile(r"(<!-- bench: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ACTIVE: Final = "bytes that a key in use takes more"  # a note
NOTHING: Final = "Not measured yet.\n"
GROWTH: Final = {  # section: what there is more of
    names.STORED: "keys in the store, 100 of them in use",
    names.USED: "keys in use",
    names.REVOCATIONS: "revoked keys",
    names.ROUTES: "routes, new paths",
    names.SCOPES: "scopes of a key",
    names.BUCKETS: "buckets a request",
    names.ROUTES_KNOWN: "routes, known paths",
}

Sections = Mapping[str, Section]


def table_of(name: str, section: Section) -> table.Table:
    if name == names.OPEN:
        return table.open_loop(section)
    return table.closed(section, table.FIRST if name in GROWTH else table.CEILING)


def write(sections: Sections, page: Path = PAGE) -> None:
    """Each part of the page that a run has measured is written anew, and the plots of it."""
    text = page.read_text("utf-8")
    page.write_text(MARKED.sub(lambda found: found[1] + part(found[2], sections) + found[3], text), "utf-8")
    folder = page.parent / page.stem
    folder.mkdir(exist_ok=True)
    for name in (names.SERVERS, names.MIXES):
        if name in sections:
            (folder / f"{name}.svg").write_text(_bars(name, sections[name]), "utf-8")
    if grown := [_panel(name, sections[name]) for name in GROWTH if name in sections]:
        title = "What growth does to requests a second"
        drawn = svg.panels(
            title, "ratio to the smallest size; the line at each point: its lowest to its highest", grown
        )
        (folder / "growth.svg").write_text(drawn, "utf-8")


def part(name: str, sections: Sections) -> str:
    """What stands between the markers of *name*."""
    if name == "targets":
        return table.markdown(targets.table(sections)) + "\n"
    if name == "growth":
        return _growth({section: sections[section] for section in GROWTH if section in sections})
    if name == "memory" and {names.STORED, names.USED} <= sections.keys():
        return _memory(sections[names.STORED], sections[names.USED])
    if name not in sections:
        return NOTHING
    section = sections[name]
    return f"{table.markdown(table_of(name, section))}\n\nConditions: {table.told(section.conditions)}.\n"


def _growth(sections: Sections) -> str:
    lines = [f"- {line(name, section)}" for name, section in sections.items()]
    conditions = dict.fromkeys(table.told(section.conditions) for section in sections.values())
    return "\n".join([*lines, "", *(f"Conditions: {told}." for told in conditions), ""]) if lines else NOTHING


def _memory(stored: Section, used: Section) -> str:
    rows = [["keys in the store", "sidecar, 100 of them in use, MiB", "sidecar, all in use, MiB", "store, bytes a key"]]
    for row, rounds in used.rows.items():
        weight = used.notes.get(row)
        few, all_of = stored.rows[row][-1].memory_mib, rounds[-1].memory_mib
        rows.append([row, f"{few:.0f}", f"{all_of:.0f}", f"{weight:.0f}" if weight else "-"])
    more = used.notes.get(ACTIVE)
    active = f"\nA key whose buckets are in use takes {more:.0f} bytes more.\n" if more else ""
    return f"{table.markdown(rows)}\n{active}\nConditions: {table.told(used.conditions)}.\n"


def line(name: str, section: Section) -> str:
    """One of growth."""
    rows = list(section.rows)
    found = ratios(section, rows[-1], to=rows[0])
    first, last = (median(section.rows[row], "requests_per_s") for row in (rows[0], rows[-1]))
    return f"**{GROWTH[name]}**, {rows[0]} → {rows[-1]}: {first:,.0f} → {last:,.0f} requests/s, {table.spread(found)}"


def _bars(name: str, section: Section) -> str:
    rows = []
    for row in section.rows:
        ratio = ratios(section, row)
        if ratio is not None:
            rows.append(svg.Bar(row, ratio, row.startswith("authz") or (name == names.MIXES and "ceiling" not in row)))
    title = {names.SERVERS: "Whom Envoy asks", names.MIXES: "What is asked"}[name]
    return svg.bars(title, "requests a second, as a ratio to the ceiling's of the same round", rows)


def _panel(name: str, section: Section) -> svg.Panel:
    points: list[tuple[float, Spread]] = []
    for row in section.rows:
        ratio = ratios(section, row)
        if ratio is not None:
            points.append((float(row.replace(",", "")), ratio))
    return svg.Panel(GROWTH[name].capitalize(), points)
