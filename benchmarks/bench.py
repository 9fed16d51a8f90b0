"""
How much of what Envoy can ask is left when authz decides every request?

    make bench            needs `wrk` (Debian package wrk) on the PATH; AUTHZ_BENCH_COMPILED adds a compiled authz

Real Envoys with the bootstrap of deploy/envoy, each answering by itself in place of an upstream, differ in whom they
ask alone. The ceiling is authz's own server with a canned answer as large as a full one. Rounds are interleaved;
machines are noisy, so only ratios within one run mean anything. At the end the tables, docs/performance.md and its
plots are written.
"""

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks import figures, names, page, table, targets
from benchmarks.conditions import conditions
from benchmarks.figures import Section
from benchmarks.loads import Again, gets
from benchmarks.mixes import measure_mixes
from benchmarks.parts import INTERPRETED, Parts, Server, Store, compiled, full_answer
from benchmarks.runs import FEW, Cell, run
from benchmarks.sidecars import made, settings


THOUSANDS: Final = 100_000
QUICK_KEYS: Final = 30_000  # of `--quick`: more than a sidecar remembers
OPEN_RATE: Final = 2_000


def main() -> int:
    options = arguments(sys.argv[1:])
    if shutil.which("wrk") is None:
        print("bench needs wrk, which is not here: install the package wrk", file=sys.stderr)
        return 1
    run_groups(GROUPS, options, conditions(options.rounds, options.seconds))
    return 0


def arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Requests a second through Envoy, with and without the check.")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="parts of it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each run (wrk takes whole ones)")
    parser.add_argument("--rate", type=int, default=OPEN_RATE, help="requests a second of the open loop")
    parser.add_argument(
        "--quick", action="store_true", help="one round of one second, fewer keys: does all of it work?"
    )
    options = parser.parse_args(given)
    if options.quick:
        options.rounds, options.seconds = 1, 1
    options.many = QUICK_KEYS if options.quick else THOUSANDS
    return options


Groups = Mapping[str, Callable[[Parts, argparse.Namespace], dict[str, Section]]]


def run_groups(groups: Groups, options: argparse.Namespace, under: dict[str, str]) -> None:
    """Those of `--only`. What each measures is printed and kept; at the end it is written into the docs."""
    for group in options.only:
        print(f"{group} …", file=sys.stderr, flush=True)
        with Parts() as parts:
            measured = groups[group](parts, options)
        for name, section in measured.items():
            section.conditions.update(under)
            print(f"\n{name}\n{table.aligned(page.table_of(name, section))}")
            for line in figures.trouble(section):
                print(f"  ! {line}")
        figures.save(measured)
    kept = figures.load()
    print(f"\ntargets\n{table.aligned(targets.table(kept))}")
    page.write(kept)


def measure_servers(parts: Parts, options: argparse.Namespace) -> dict[str, Section]:
    store = parts.valkey()
    tokens = made(parts, settings(store), "read-only")
    contenders = {row: parts.envoy(server) for row, server in servers(parts, store, tokens[0]).items()}
    load = Again(gets(tokens))
    compared = [row for row in contenders if row == names.CEILING or row.startswith((names.GRPCIO, names.FAST))]
    cells = [Cell(names.SERVERS, row, of, load, names.CEILING) for row, of in contenders.items()]
    cells += [Cell(names.FEW, row, contenders[row], load, names.CEILING, connections=FEW) for row in compared]
    cells += [Cell(names.OPEN, row, contenders[row], load, names.CEILING, rate=options.rate) for row in compared]
    measured = run(cells, rounds=options.rounds, seconds=options.seconds, folder=parts.folder)
    measured[names.OPEN].conditions["rate"] = f"{options.rate:,} requests/s due"
    return measured


def servers(parts: Parts, store: Store, token: str) -> dict[str, Server]:
    """All that there are here, by row."""
    fast = parts.sidecar(INTERPRETED, settings(store), store)
    answer = parts.folder / "answer"
    answer.write_bytes(full_answer(fast, token))
    tree = compiled()
    found: dict[str, Server | None] = {
        names.CEILING: parts.canned("fast", answer),
        names.CEILING_COMPILED: parts.canned("fast", answer, tree) if tree else None,
        names.NGHTTPD: parts.nghttpd(answer),
        names.GO: parts.go(answer),
        names.SYNC: parts.canned("sync", answer),
        names.AIO: parts.canned("aio", answer),
        names.GRPCIO: parts.sidecar(INTERPRETED, settings(store, "grpcio"), store),
        names.GRPCIO + names.COMPILED: parts.sidecar(tree, settings(store, "grpcio"), store) if tree else None,
        names.FAST: fast,
        names.FAST + names.COMPILED: parts.sidecar(tree, settings(store), store) if tree else None,
    }
    return {row: server for row, server in found.items() if server is not None}


GROUPS: Final[Groups] = {
    "servers": measure_servers,
    "mixes": measure_mixes,
}


if __name__ == "__main__":
    sys.exit(main())
