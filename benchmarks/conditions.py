"""On what, and with what, a run was made."""

import os
import platform
import re
import subprocess
from pathlib import Path

from authz import __version__
from authz.adapters.redis.embedded import server_binary
from authz.app import SystemClock
from authz.core.units import rfc3339
from authz.demo.processes import envoy_binary


def conditions(rounds: int, seconds: int) -> dict[str, str]:
    day = (rfc3339(round(SystemClock().now_s() * 1_000_000)) or "").partition("T")[0]
    return {
        "measured": day,
        "authz": __version__,
        "rounds": f"{rounds} of {seconds} s",
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "CPython": platform.python_version(),
        "Envoy": _version([str(envoy_binary(os.environ)), "--version"], r"/(\d+\.\d+\.\d+)[-/]"),
        "Valkey": _version([str(server_binary()), "--version"], r"v=(\S+)"),
        "wrk": _version(["wrk", "-v"], r"(\d+\.\d+\.\d+)"),
    }


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    found = re.findall(r"model name\s*: (.+)", told.read_text()) if told.exists() else []
    return found[0].strip() if found else platform.machine()


def _version(command: list[str], pattern: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(pattern, ran.stdout + ran.stderr)
    return found[0] if found else "of unknown version"
