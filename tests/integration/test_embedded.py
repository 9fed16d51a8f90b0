"""The embedded store: one sidecar's, used by commands beside it, never lost to a race or a kill."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from authz.adapters.redis.embedded import EmbeddedStore, EmbeddedStoreError
from authz.demo.processes import Process, free_port, status_of
from tests.support.parts import SECRET


def environ(folder: Path) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
    return {**ours, "AUTHZ_JWT_SECRET": SECRET, "AUTHZ_DATA": str(folder / "data")}


def serve(folder: Path) -> tuple[Process, int]:
    metrics = free_port()
    listening = {f"AUTHZ_LISTEN__{name}": f"127.0.0.1:{free_port()}" for name in ("AUTHZ", "GRPC", "HTTP")}
    listening["AUTHZ_LISTEN__METRICS"] = f"127.0.0.1:{metrics}"
    command = [sys.executable, "-m", "authz", "serve"]
    return Process("authz", command, folder / f"{metrics}.log", environ(folder) | listening), metrics


def keys(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "authz", "keys", *arguments]
    return subprocess.run(command, env=environ(folder), capture_output=True, text=True, timeout=60, check=False)


def up(metrics: int) -> bool:
    from authz.demo.tour import ask

    return status_of(metrics, "/readyz") == 200 and b"store: up" in ask(metrics, "GET", "/readyz?verbose").body


def until_up(process: Process, metrics: int) -> None:
    deadline_s = time.monotonic() + 20
    while not up(metrics):
        assert time.monotonic() < deadline_s, process.tail()
        time.sleep(0.05)


def server_pid(folder: Path) -> int:
    with redis.Redis(unix_socket_path=str(folder / "data" / "valkey.sock")) as client:
        info: Any = client.info("server")
        return int(info["process_id"])


def test_a_command_and_a_sidecar_at_the_same_moment(tmp_path: Path) -> None:
    """As the README's lines are pasted: whoever is first, the sidecar has its store afterwards."""
    process, metrics = serve(tmp_path)
    try:
        made = [keys(tmp_path, "create", "--name", "n") for _ in range(2)]
        until_up(process, metrics)
        time.sleep(1)  # whatever a command would take with it, it has by now

        assert [one.returncode for one in made] == [0, 0]
        assert up(metrics)
        assert keys(tmp_path, "list").stdout.count("key_") >= 2
    finally:
        process.stop()


def test_a_sidecar_that_was_killed_leaves_its_data_to_the_next(tmp_path: Path) -> None:
    """And no server behind: the next one ends the orphan."""
    keys(tmp_path, "create", "--name", "n")
    process, metrics = serve(tmp_path)
    until_up(process, metrics)
    orphan = server_pid(tmp_path)
    process.signal(signal.SIGKILL)
    process.ended()
    process, metrics = serve(tmp_path)
    try:
        until_up(process, metrics)
        assert server_pid(tmp_path) != orphan
        assert keys(tmp_path, "list").stdout.count(" n ") == 1
    finally:
        last = server_pid(tmp_path)
        process.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)


def test_a_server_that_ends_is_started_anew(tmp_path: Path) -> None:
    keys(tmp_path, "create", "--name", "n")
    process, metrics = serve(tmp_path)
    try:
        until_up(process, metrics)
        before = server_pid(tmp_path)
        os.kill(before, signal.SIGKILL)
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            try:
                if server_pid(tmp_path) != before:
                    break
            except redis.ConnectionError:
                time.sleep(0.05)
        until_up(process, metrics)
        assert keys(tmp_path, "list").returncode == 0
    finally:
        process.stop()


async def test_two_sidecars_on_one_folder(tmp_path: Path) -> None:
    async with EmbeddedStore(tmp_path, resident=True):
        with pytest.raises(EmbeddedStoreError, match="another sidecar"):
            async with EmbeddedStore(tmp_path, resident=True):
                pass
        async with EmbeddedStore(tmp_path):
            await asyncio.sleep(0)
