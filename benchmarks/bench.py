"""
How much of what Envoy can do is left when authz decides every request?

    make bench            needs `wrk` (Debian package wrk) on the PATH

Two real Envoys with the bootstrap of deploy/envoy, each answering by itself in place of an upstream: one without the
filter (the ceiling), one with the full check: JWT, revocation, a requests and a tokens bucket in Valkey, metrics, logs
at info. Rounds are interleaved; machines are noisy, so only ratios within one run mean anything.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from authz.admin.keys import NewKey
from authz.core.bucket import Limit
from authz.demo.envoy_config import filled, written
from authz.demo.processes import Process, envoy_binary, free_port
from authz.demo.stack import Stack


RESULTS = Path(__file__).parent / "results" / "latest.json"
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Round:
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    authz_cpu_us: float  # a request


def main() -> int:
    parser = argparse.ArgumentParser(description="Requests a second through Envoy, with and without the check.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        print("bench needs wrk, which is not here: install the package wrk", file=sys.stderr)
        return 1
    with Stack(port=0) as stack, envoys(stack) as ports:
        limits = {"requests": Limit(10**9, 1), "tokens": Limit(10**9, 1)}
        key = stack.create_key(NewKey("bench", scopes=("read-only",), limits=limits)).token
        rounds: dict[str, list[Round]] = {name: [] for name in ports}
        for number in range(options.rounds + 1):
            for name, port in ports.items():
                measured = measure(port, key, options, stack.processes["authz"].pid)
                if number:  # the first is for warming up
                    rounds[name].append(measured)
    report(rounds)
    return 0


@contextmanager
def envoys(stack: Stack) -> Iterator[dict[str, int]]:
    """Ports of the two, which share the stack's sidecar."""
    ports: dict[str, int] = {}
    started: list[Process] = []
    try:
        for name in ("ceiling", "full check"):
            edge, admin = free_port(), free_port()
            authz = int(stack.address("authz").rpartition(":")[2])
            bootstrap = filled(edge=edge, authz=authz, log=1, upstream=1, admin=admin)
            text = answering_itself(bootstrap, checked=name != "ceiling")
            config = stack.folder / f"bench-{edge}.yaml"
            config.write_text(text)
            command = [
                str(envoy_binary(stack.environ)),
                "-c",
                str(config),
                "--concurrency",
                "1",
                "--use-dynamic-base-id",
            ]
            process = Process(name, [*command, "--log-level", "error"], stack.folder / f"{edge}.out", stack.environ)
            started.append(process)
            process.wait_for(admin, "/ready")
            ports[name] = edge
        yield ports
    finally:
        for process in started:
            process.stop()


def answering_itself(bootstrap: str, *, checked: bool) -> str:
    """The same bootstrap with an answer in place of the upstream, and without the access log."""
    config: Any = yaml.safe_load(bootstrap)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager.pop("access_log", None)
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            route.pop("route", None)
            route["direct_response"] = {"status": 200, "body": {"inline_string": "ok"}}
    if not checked:
        manager["http_filters"] = [f for f in manager["http_filters"] if "authz" not in f["name"]]
    return written(config)


def measure(port: int, key: str, options: argparse.Namespace, authz_pid: int) -> Round:
    before = cpu_s(authz_pid)
    command = ["wrk", "-t", "1", "-c", str(options.connections), "-d", f"{options.seconds}s", "--latency"]
    command += ["-H", f"Authorization: Bearer {key}", f"http://127.0.0.1:{port}/v1/models"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told:
        raise SystemExit(f"some requests were refused:\n{told}")
    requests = int(re.findall(r"(\d+) requests in", told)[0])
    return Round(
        requests_per_s=float(re.findall(r"Requests/sec:\s+([\d.]+)", told)[0]),
        p50_ms=milliseconds(told, "50%"),
        p99_ms=milliseconds(told, "99%"),
        authz_cpu_us=(cpu_s(authz_pid) - before) / requests * 1e6,
    )


def milliseconds(told: str, percentile: str) -> float:
    value, unit = re.findall(rf"{percentile}\s+([\d.]+)(us|ms|s)", told)[0]
    return float(value) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def report(rounds: dict[str, list[Round]]) -> None:
    ceiling = rounds["ceiling"]
    print(f"{'':<12} {'requests/s':>10} {'to the ceiling':>22} {'p50 ms':>7} {'p99 ms':>7} {'authz CPU µs':>13}")
    for name, measured in rounds.items():
        ratios = [one.requests_per_s / top.requests_per_s for one, top in zip(measured, ceiling, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        median = {field: statistics.median(getattr(one, field) for one in measured) for field in asdict(measured[0])}
        print(
            f"{name:<12} {median['requests_per_s']:>10.0f} {ratio:>22} {median['p50_ms']:>7.1f} "
            f"{median['p99_ms']:>7.1f} {median['authz_cpu_us']:>13.1f}"
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({name: [asdict(one) for one in measured] for name, measured in rounds.items()}, indent=1)
    )


if __name__ == "__main__":
    sys.exit(main())
