"""Runs side by side: in each round every cell has its turn, so that whatever happens to the machine happens to all."""

import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import openloop
from benchmarks.figures import Round, Section
from benchmarks.loads import PARTED_BY, Load
from benchmarks.parts import Contender


MANY: Final = 64  # connections
FEW: Final = 4
WARM_UP_S: Final = 1
TOLERANCE: Final = 0.02  # of the share that is refused where some are to be: a run ends in the middle of things
WRK: Final = Path(__file__).parent / "wrk.lua"
_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_FAULTS: Final = ("store_unavailable", "overloaded", "internal_error")
_DROPPED: Final = "authz_log_entries_dropped_total"


@dataclass(frozen=True, slots=True)
class Cell:
    """
    One row of a section.

    Args:
        ceiling: The row that it is compared to.
        rate: Requests a second of an open loop; 0: as fast as the connections go.
        refused: The share that is to be refused.
    """

    section: str
    row: str
    contender: Contender
    load: Load
    ceiling: str
    connections: int = MANY
    rate: int = 0
    refused: float = 0.0


@dataclass(frozen=True, slots=True)
class Told:
    """By the load."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    refused: int
    broken: int


def run(cells: Sequence[Cell], *, rounds: int, seconds: int, folder: Path) -> dict[str, Section]:
    """All cells, after a round to warm up; a section for each that is named."""
    sections: dict[str, Section] = {}
    begun_s = time.monotonic()
    for number in range(rounds + 1):
        for cell in cells:
            measured = measure(cell, seconds if number else WARM_UP_S, folder)
            section = sections.setdefault(cell.section, Section())
            section.ceilings[cell.row] = cell.ceiling
            section.rows.setdefault(cell.row, [])
            if number:
                section.rows[cell.row].append(measured)
        lasted_s = time.monotonic() - begun_s
        print(f"  round {number} of {rounds}, {lasted_s:.0f} s", file=sys.stderr, flush=True)
    return sections


def measure(cell: Cell, seconds: int, folder: Path) -> Round:
    contender = cell.contender
    server = contender.server
    pids = {"authz": (server.pid,), "envoy": (contender.envoy_pid,), "store": server.store.pids if server.store else ()}
    requests = cell.load.next()
    counted, cpu = _counted(server.metrics), {name: cpu_s(*of) for name, of in pids.items()}
    told = _open(cell, requests, seconds) if cell.rate else _closed(cell, requests, seconds, folder)
    spent = {name: (cpu_s(*of) - cpu[name]) / max(1, told.requests) * 1e6 for name, of in pids.items()}
    now = _counted(server.metrics)
    counts = {name: now[name] - counted.get(name, 0.0) for name in now}
    calls = counts.get("batches", 0.0)
    return Round(
        requests_per_s=told.requests_per_s,
        p50_ms=told.p50_ms,
        p99_ms=told.p99_ms,
        authz_us=spent["authz"],
        envoy_us=spent["envoy"],
        store_us=spent["store"],
        batch=counts["checks"] / calls if calls else 0.0,
        unexpected=unexpected(told.requests, told.refused, cell.refused),
        faults=round(counts.get("faults", 0.0)),
        broken=told.broken,
        memory_mib=memory_mib(server.pid),
    )


def unexpected(requests: int, refused: int, share: float) -> int:
    """How many were refused beyond *share* of them, or not refused that were to be."""
    wrong = round(abs(refused - share * requests))
    return wrong if share in {0.0, 1.0} or wrong > TOLERANCE * requests else 0


def _closed(cell: Cell, requests: Sequence[bytes], seconds: int, folder: Path) -> Told:
    file = folder / "requests"
    file.write_bytes(PARTED_BY.join(requests))
    command = ["wrk", "-t", "1", "-c", str(cell.connections), "-d", f"{seconds}s", "-s", str(WRK)]
    command += [f"http://127.0.0.1:{cell.contender.edge}/", "--", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(ran.stdout.splitlines()[-1])
    return Told(
        told["requests"],
        told["requests"] / told["us"] * 1e6,
        told["p50_us"] / 1000,
        told["p99_us"] / 1000,
        told["refused"],
        told["broken"],
    )


def _open(cell: Cell, requests: Sequence[bytes], seconds: int) -> Told:
    edge = cell.contender.edge
    seen, per_s = openloop.run(edge, requests, rate=cell.rate, seconds=seconds, connections=cell.connections)
    p50_ms, p99_ms = (openloop.percentile(seen.latencies_s, share) * 1000 for share in (0.5, 0.99))
    return Told(len(seen.latencies_s), per_s, p50_ms, p99_ms, seen.refused, seen.broken)


def cpu_s(*pids: int) -> float:
    """That they have used, all threads of theirs that live."""
    spent_ns = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            spent_ns += int((thread / "schedstat").read_text().split()[0])
    return spent_ns / 1e9


def memory_mib(pid: int) -> float:
    """Resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def _counted(port: int) -> Mapping[str, float]:
    """What a sidecar has counted; nothing where *port* is 0."""
    if not port:
        return {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        samples = _SAMPLE.findall(connection.getresponse().read().decode())
    finally:
        connection.close()
    faults = (
        float(value)
        for name, labels, value in samples
        if name == "authz_decisions_total" and any(f'"{reason}"' in labels for reason in _FAULTS)
    )
    totals = {name: float(value) for name, labels, value in samples if not labels}
    return {
        "checks": totals.get("authz_store_batch_checks_sum", 0.0),
        "batches": totals.get("authz_store_batch_checks_count", 0.0),
        "faults": sum(faults) + sum(float(value) for name, _, value in samples if name == _DROPPED),
    }
