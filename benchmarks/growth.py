"""
What becomes slower as there is more of it: keys, revocations, routes, scopes, buckets.

    make bench-growth     needs what `make bench` needs, and some 2 GB of memory

Each series has a sidecar, a store or both for every size, asked side by side; sizes are compared to the first.
"""

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from benchmarks import names
from benchmarks.bench import Groups, run_groups
from benchmarks.bulk import Bulk
from benchmarks.conditions import conditions
from benchmarks.figures import Section
from benchmarks.loads import Again, Drawn, Load, Made, get, gets
from benchmarks.page import ACTIVE
from benchmarks.parts import INTERPRETED, Contender, Parts, Store, compiled
from benchmarks.runs import WARM_UP_S, Cell, measure, run
from benchmarks.sidecars import HUNDRED, REQUESTS, ROUTES, TOKENS, made, settings


KEYS: Final = (1, 100, 10_000, 100_000, 1_000_000)
SIGNED: Final = 200_000  # tokens of a million keys, drawn evenly: ten times what a sidecar remembers
REVOKED: Final = (0, 1_000, 100_000, 1_000_000)
ROUTES_OF: Final = (1, 10, 100, 1_000)
SCOPES_OF: Final = (1, 4, 16, 64)
BUCKETS_OF: Final = (1, 2, 4, 8, 16)
SLOW: Final = {"default": {"requests": "1000/31d", "tokens": TOKENS}}  # full buckets take no room: these stay in use
REMEMBERED: Final = 20_000  # keys, by a sidecar: all of so few are asked once before it is measured
QUICK: Final = 20_000  # the most of anything in a quick run
LEAST_WEIGHED: Final = 10_000  # keys: of fewer, what a store needs for itself counts for too much


def main() -> int:
    parser = argparse.ArgumentParser(description="Requests a second as there is more of everything.")
    parser.add_argument("--only", nargs="+", choices=SERIES, default=list(SERIES), help="series")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each run (wrk takes whole ones)")
    parser.add_argument("--quick", action="store_true", help=f"one round of one second, nothing above {QUICK:,}")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench-growth needs wrk, which is not here: install the package wrk", file=sys.stderr)
        return 1
    if options.quick:
        options.rounds, options.seconds = 1, 1
    under = conditions(options.rounds, options.seconds)
    run_groups(SERIES, options, under | {"authz": f"{under['authz']}, {(compiled() or INTERPRETED).name}"})
    return 0


def _sizes(all_of: Iterable[int], options: argparse.Namespace) -> list[int]:
    return [size for size in all_of if not options.quick or size <= QUICK]


@dataclass(frozen=True, slots=True)
class Size:
    """One point of a series."""

    row: str
    contender: Contender
    load: Load


def _run(section: str, sizes: Sequence[Size], parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    cells = [Cell(section, size.row, size.contender, size.load, sizes[0].row) for size in sizes]
    return run(cells, rounds=options.rounds, seconds=options.seconds, folder=parts.folder)


def _contender(parts: Parts, store: Store, **changed: Any) -> Contender:
    return parts.envoy(parts.sidecar(compiled() or INTERPRETED, settings(store, **changed), store))


def measure_keys(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    """A store for each number of keys; a hundred of them in use, then all of them."""
    stored: list[Size] = []
    used: list[tuple[Size, Sequence[bytes]]] = []
    notes: dict[str, float] = {}
    for count in _sizes(KEYS, options):
        store = parts.valkey()
        bulk = Bulk(parts.configured(settings(store))[1])
        bulk.fill(0)
        empty_bytes = store.memory_bytes()
        bulk.fill(count)
        if count >= LEAST_WEIGHED:
            notes[f"{count:,}"] = (store.memory_bytes() - empty_bytes) / count
        requests = gets(bulk.tokens(range(0, count, max(1, count // SIGNED))))
        contender = _contender(parts, store)
        if count == LEAST_WEIGHED:
            idle_bytes = store.memory_bytes()
            _ask_all(parts, _contender(parts, store, limits=SLOW), requests)
            notes[ACTIVE] = (store.memory_bytes() - idle_bytes) / count
        stored.append(Size(f"{count:,}", contender, Again(requests[:HUNDRED])))
        used.append((Size(f"{count:,}", contender, Drawn(requests)), requests))
    sections = _run(names.STORED, stored, parts, options)
    for size, all_of in used:
        if len(all_of) <= REMEMBERED:
            _ask_all(parts, size.contender, all_of)
    sections |= _run(names.USED, [size for size, _ in used], parts, options)
    sections[names.USED].notes.update(notes)
    return sections


def _ask_all(parts: Parts, contender: Contender, requests: Sequence[bytes]) -> None:
    """Each at least once: a run begins where the one before it had surely been."""
    asked = 0
    while asked < len(requests):
        cell = Cell("", "", contender, Again(requests[asked:]), "")
        asked += int(measure(cell, WARM_UP_S, parts.folder).requests_per_s * 0.9 * WARM_UP_S)


def measure_revocations(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    """A hundred good keys, and so many revoked ones."""
    sizes = []
    for count in _sizes(REVOKED, options):
        store = parts.valkey()
        _, configured = parts.configured(settings(store))
        tokens = Bulk(configured).filled(HUNDRED)
        Bulk(configured, first=HUNDRED).fill(count, revoked=True)
        sizes.append(Size(f"{count:,}", _contender(parts, store), Again(gets(tokens))))
    return _run(names.REVOCATIONS, sizes, parts, options)


def measure_routes(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    """The last of so many is asked for: by a path that was never asked for before, and by one that was."""
    fresh, known = [], []
    store = parts.valkey()
    tokens = made(parts, settings(store), "read-only")
    for count in ROUTES_OF:
        template = {"methods": ["GET"], "scopes": ["read-only"], "limits": ["default"]}
        routes = [{"name": f"r{number}", "path": f"/v1/r{number}/**", **template} for number in range(count)]
        contender = _contender(parts, store, routes=routes)
        fresh.append(Size(f"{count:,}", contender, Made(partial(_get, tokens, f"/v1/r{count - 1}/"))))
        known.append(Size(f"{count:,}", contender, Again([get(token, f"/v1/r{count - 1}/x") for token in tokens])))
    return _run(names.ROUTES, fresh, parts, options) | _run(names.ROUTES_KNOWN, known, parts, options)


def _get(tokens: Sequence[str], path: str, place: int) -> bytes:
    return get(tokens[place % len(tokens)], f"{path}{place}")


def measure_scopes(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    """Keys that hold so many, of which the last is asked for."""
    store = parts.valkey()
    sizes = []
    for count in SCOPES_OF:
        held = [f"scope-{number}" for number in range(count)]
        changed: dict[str, Any] = {
            "scopes": {name: [] for name in held},
            "routes": [{"name": "read", "path": "/v1/**", "scopes": held[-1:], "limits": ["default"]}],
        }
        tokens = made(parts, settings(store, **changed), *held)
        sizes.append(Size(f"{count:,}", _contender(parts, store, **changed), Again(gets(tokens))))
    return _run(names.SCOPES, sizes, parts, options)


def measure_buckets(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    """Limits of two buckets each, but for the first size, which is one."""
    store = parts.valkey()
    tokens = made(parts, settings(store), "read-only")
    sizes = []
    for count in BUCKETS_OF:
        both = {"requests": REQUESTS, "tokens": TOKENS}
        limits = {f"limit-{number}": both for number in range(count // 2)} or {"limit-0": {"requests": REQUESTS}}
        routes = [{**route, "limits": list(limits)} for route in ROUTES]
        sizes.append(Size(f"{count:,}", _contender(parts, store, limits=limits, routes=routes), Again(gets(tokens))))
    return _run(names.BUCKETS, sizes, parts, options)


SERIES: Final[Groups] = {
    "keys": measure_keys,
    "revocations": measure_revocations,
    "routes": measure_routes,
    "scopes": measure_scopes,
    "buckets": measure_buckets,
}


if __name__ == "__main__":
    sys.exit(main())
