"""The real parts of a benchmark, each a process of its own: stores, sidecars, what they are compared to, and Envoys."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import grpc
import redis
from envoy.service.auth.v3 import external_auth_pb2

from authz.adapters.redis.embedded import server_binary
from authz.demo.envoy_config import written
from authz.demo.processes import Process, envoy_binary, free_port, inherited
from authz.settings import Configuration, load_settings
from benchmarks.bootstraps import Variant, bootstrap
from benchmarks.canned import METHOD, SERVICE
from benchmarks.loads import PATH
from tests.support.stores import cluster


HERE: Final = Path(__file__).parent
PLAIN: Final = Variant()
START_S: Final = 20.0
BUILD_S: Final = 120


@dataclass(frozen=True, slots=True)
class Tree:
    """Where a Python and the package come from. *path*: what PYTHONPATH says; empty: it is installed."""

    name: str
    python: str
    path: str

    def environ(self) -> dict[str, str]:
        return {"PYTHONPATH": self.path} if self.path else {}


INTERPRETED: Final = Tree("interpreted", sys.executable, str(HERE.parent))


@cache
def compiled() -> Tree | None:
    """`$AUTHZ_BENCH_COMPILED`: a tree or a virtual environment with the compiled package; None: there is none."""
    given = os.environ.get("AUTHZ_BENCH_COMPILED", "")
    if not given:
        print("compiled: skipped, as AUTHZ_BENCH_COMPILED names no tree or virtual environment with a compiled authz")
        return None
    python = Path(given) / "bin" / "python"
    tree = Tree("compiled", str(python), "") if python.exists() else Tree("compiled", sys.executable, given)
    ask = "import authz.pipeline as a, authz.adapters.http2.connection as b; print(a.__file__, b.__file__)"
    ran = subprocess.run(
        [tree.python, "-P", "-c", ask], env=_environ(tree.environ()), capture_output=True, text=True, check=False
    )
    if ran.stdout.count(".so") != 2:
        raise SystemExit("AUTHZ_BENCH_COMPILED: the authz there is not compiled, or has no server of its own")
    return tree


@dataclass(frozen=True, slots=True)
class Store:
    url: str
    pids: tuple[int, ...]

    def memory_bytes(self) -> int:
        """That its values take, and what belongs to them."""
        with redis.Redis.from_url(self.url) as client:
            found: int = client.info("memory")["used_memory"]
            return found


@dataclass(frozen=True, slots=True)
class Server:
    """Of checks. *metrics*: its port; 0: it has none. *log*: the access log's."""

    port: int
    pid: int
    metrics: int = 0
    log: int = 0
    store: Store | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """A server of checks with an Envoy before it, which listens on *edge*."""

    server: Server
    edge: int
    envoy_pid: int


class Parts:
    """Use as a context manager; at its end all is killed."""

    def __init__(self) -> None:
        self._exit = ExitStack()
        self._secrets = {name: secrets.token_urlsafe(48) for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER")}
        self._count = 0

    def __enter__(self) -> Self:
        self.folder = Path(self._exit.enter_context(tempfile.TemporaryDirectory(prefix="authz-bench-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def valkey(self) -> Store:
        """On a Unix socket; it writes nothing to disk."""
        path = self.folder / f"{self._next()}.sock"
        command = [str(server_binary()), "--port", "0", "--unixsocket", str(path), "--save", ""]
        process = self._start("valkey", [*command, "--dir", str(self.folder)], {})
        _wait(process, lambda: _connects(path))
        return Store(f"unix://{path}", (process.pid,))

    def cluster(self) -> Store:
        """Three primaries."""
        made = self._exit.enter_context(cluster("valkey"))
        with ExitStack() as clients:
            opened = [clients.enter_context(node.client) for node in made.nodes]
            pids = tuple(int(client.info("server")["process_id"]) for client in opened)
        return Store(made.url, pids)

    def configured(self, settings: Mapping[str, Any]) -> tuple[Path, Configuration]:
        """The file, and what the product makes of it."""
        file = self.folder / f"{self._next()}.yaml"
        file.write_text(written(dict(settings)))
        return file, load_settings(file, self._secrets)

    def sidecar(self, tree: Tree, settings: Mapping[str, Any], store: Store, *, logged: bool = False) -> Server:
        """*logged*: it takes the access log."""
        authz, log, metrics = free_port(), free_port() if logged else 0, free_port()
        listen = {
            "authz": f"127.0.0.1:{authz}",
            "grpc": f"127.0.0.1:{log}" if logged else None,
            "http": None,
            "metrics": f"127.0.0.1:{metrics}",
        }
        file, _ = self.configured({**settings, "listen": listen})
        command = [tree.python, "-P", "-m", "authz", "serve", "--config", str(file), "--log-level", "info"]
        process = self._start(f"authz-{tree.name}", command, tree.environ() | self._secrets)
        process.wait_for(metrics, "/readyz")
        return Server(authz, process.pid, metrics, log, store)

    def canned(self, kind: str, answer: Path, tree: Tree = INTERPRETED) -> Server:
        """One of `canned.SERVERS`."""
        port = free_port()
        command = [tree.python, "-P", str(HERE / "canned.py"), kind, str(port), str(answer)]
        return self._listening(kind, command, port, tree.environ())

    def nghttpd(self, answer: Path) -> Server | None:
        """A C server that answers a check with a file. None: it is not installed."""
        binary = shutil.which("nghttpd")
        if binary is None:
            print("nghttpd: skipped, as it is not on the PATH (Debian: nghttp2-server)")
            return None
        message = answer.read_bytes()
        file = self.folder / "htdocs" / SERVICE / METHOD
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
        port = free_port()
        command = [binary, "--no-tls", "--address", "127.0.0.1", "-d", str(self.folder / "htdocs")]
        return self._listening("nghttpd", [*command, "--trailer", "grpc-status: 0", str(port)], port, {})

    def go(self, answer: Path) -> Server | None:
        """benchmarks/go; `$AUTHZ_BENCH_GO` is that, built. None: it is not there, and cannot be built."""
        built = os.environ.get("AUTHZ_BENCH_GO") or _built(self.folder / "go")
        if built is None:
            return None
        port = free_port()
        return self._listening("go", [built, f"127.0.0.1:{port}", str(answer)], port, {})

    def envoy(self, server: Server, variant: Variant = PLAIN) -> Contender:
        edge, admin = free_port(), free_port()
        config = self.folder / f"envoy-{edge}.yaml"
        config.write_text(bootstrap(variant, edge=edge, authz=server.port, admin=admin))
        command = [str(envoy_binary(os.environ)), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"]
        process = self._start("envoy", [*command, "--log-level", "error"], {})
        process.wait_for(admin, "/ready")
        return Contender(server, edge, process.pid)

    def _listening(self, name: str, command: Sequence[str], port: int, environ: Mapping[str, str]) -> Server:
        process = self._start(name, command, environ)
        _wait(process, lambda: _connects(port))
        return Server(port, process.pid)

    def _start(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> Process:
        log = self.folder / f"{name}-{self._next()}.log"
        process = Process(name, command, log, _environ(environ))
        self._exit.callback(process.stop)
        self._exit.callback(process.signal, signal.SIGKILL)
        return process

    def _next(self) -> int:
        self._count += 1
        return self._count


def full_answer(server: Server, token: str) -> bytes:
    """What a sidecar answers to a check of `loads.get`: as large as any, and with all that belongs to it."""
    request: Any = external_auth_pb2.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "GET", PATH
    for name, value in ((":path", PATH), ("authorization", f"Bearer {token}")):
        http.headers[name] = value
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        answer: bytes = channel.unary_unary(f"/{SERVICE}/{METHOD}")(request.SerializeToString(), timeout=START_S)
    told: Any = external_auth_pb2.CheckResponse.FromString(answer)
    if told.status.code or not told.ok_response.headers:
        raise SystemExit(f"the sidecar refuses a good key: {told}")
    return answer


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    """Nothing of ours that a sidecar would take for its own."""
    kept = {name: value for name, value in inherited().items() if not name.startswith(("AUTHZ_", "PYTHON"))}
    return kept | dict(more)


def _built(folder: Path) -> str | None:
    """Needs the modules of go.mod, or a way to them."""
    go = shutil.which("go")
    if go is None:
        print("Go: skipped, as there is no go on the PATH, and AUTHZ_BENCH_GO names no server built from benchmarks/go")
        return None
    shutil.copytree(HERE / "go", folder)
    command = [go, "build", "-mod=mod", "-o", "noop", "."]
    try:
        subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=BUILD_S)
    except subprocess.TimeoutExpired:
        print(f"Go: skipped, as building benchmarks/go takes more than {BUILD_S} s")
        return None
    except subprocess.CalledProcessError as error:
        print(f"Go: skipped, as benchmarks/go cannot be built: {error.stderr.strip().splitlines()[-1]}")
        return None
    return str(folder / "noop")


def _wait(process: Process, answers: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_S
    while not answers():
        if not process.is_running or time.monotonic() > deadline_s:
            raise SystemExit(f"{process.name} did not start:\n{process.tail()}")
        time.sleep(0.02)


def _connects(to: Path | int) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX if isinstance(to, Path) else socket.AF_INET) as probe:
        probe.connect(str(to) if isinstance(to, Path) else ("127.0.0.1", to))
        return True
    return False
