"""
The whole stack: embedded Valkey, the sidecar, a real Envoy, and a mock model API behind it.

Everything is a process of its own, started as a user would start it. The environment's `AUTHZ_` overrides count, so the
demo runs on a store and a secret of one's own as well.
"""

import asyncio
import secrets
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self, TypeVar

from authz.adapters.logs.silent import Silent
from authz.adapters.redis.client import Store
from authz.adapters.redis.embedded import EmbeddedStore
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, KeyAdmin, NewKey
from authz.admin.users import NewUser
from authz.app import PATIENCE_S, key_admin, open_store, user_admin
from authz.core.keyrecord import KeyRecord
from authz.demo.certificate import make_certificate
from authz.demo.envoy_config import filled, shipped
from authz.demo.processes import DemoError, Process, envoy_binary, free_port, inherited, is_free, python_module
from authz.demo.profiles import PROFILES
from authz.settings import Configuration, load_settings


DEFAULT_PORT: Final = 10000
T = TypeVar("T")


class Stack:
    """
    Use as a context manager; inside it everything answers.

    Args:
        port: Envoy's; 0: a free one.
        environ: In place of the process's own.
    """

    def __init__(
        self,
        profile: str = "default",
        port: int = DEFAULT_PORT,
        environ: Mapping[str, str] | None = None,
        log_level: str = "info",
    ) -> None:
        if profile not in PROFILES:
            raise DemoError(no_such_profile(profile))
        if port and not is_free(port):
            raise DemoError(f"127.0.0.1:{port} is in use: choose another port for Envoy with --port N")
        self.profile = PROFILES[profile]
        self._log_level = log_level
        self.port = port or free_port()
        self._exit = ExitStack()
        self.environ = inherited(environ)
        self.processes: dict[str, Process] = {}
        self.keys: dict[str, str] = {}  # name → token
        self.records: dict[str, KeyRecord] = {}
        self.passwords: dict[str, str] = {}  # of users, by name
        self.admin_port = free_port()
        self.upstream_port = free_port()
        self.tls_port = free_port() if self.profile.tls else 0
        self.certificate: Path | None = None  # of the TLS listener, where there is one

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self.folder = Path(starting.enter_context(tempfile.TemporaryDirectory(prefix="authz-demo-")))
            self._prepare()
            starting.callback(self._stop_all)
            self._start_upstream()
            self.start_sidecar()
            self._start_envoy()
            self._create_keys()
            self._exit = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_tls(self) -> str:
        return f"https://127.0.0.1:{self.tls_port}"

    def address(self, listener: str) -> str:
        return self.environ[f"AUTHZ_LISTEN__{listener.upper()}"]

    @property
    def store_url(self) -> str:
        url = self.environ.get("AUTHZ_STORE__URL", "embedded")
        return EmbeddedStore(Path(self.environ["AUTHZ_DATA"])).url if url == "embedded" else url

    def configuration(self) -> Configuration:
        return load_settings(self._config_file, self.environ)

    def describe(self) -> dict[str, object]:
        """What `authz demo --json` prints. What is not served yet is null."""
        return {
            "profile": self.profile.name,
            "envoy": self.url,
            "authz": self.address("authz"),
            "grpc": self.address("grpc"),
            "http": f"http://{self.address('http')}",
            "metrics": f"http://{self.address('metrics')}/metrics",
            "console": None,
            "store": self.store_url,
            "keys": self.keys,
            **({"passwords": self.passwords} if self.passwords else {}),
            **({"envoy_tls": self.url_tls, "certificate": str(self.certificate)} if self.certificate else {}),
        }

    def died(self) -> Process | None:
        """A part that is no longer running."""
        return next((process for process in self.processes.values() if not process.is_running), None)

    def _prepare(self) -> None:
        self._config_file = self.folder / "authz.yaml"
        self._config_file.write_text(shipped(f"profiles/{self.profile.name}.yaml"))
        if self.profile.tls:
            self.certificate = make_certificate(self.folder)
        self.environ.pop("AUTHZ_CONFIG", None)
        self.environ.setdefault("AUTHZ_JWT_SECRET", secrets.token_urlsafe(48))
        self.environ.setdefault("AUTHZ_PEPPER", secrets.token_urlsafe(48))
        self.environ.setdefault("AUTHZ_DATA", str(self.folder / "data"))
        for listener in ("authz", "grpc", "http", "metrics"):
            address = self.environ.setdefault(f"AUTHZ_LISTEN__{listener.upper()}", f"127.0.0.1:{free_port()}")
            if not address.rpartition(":")[2].isdigit():
                raise DemoError(
                    f"AUTHZ_LISTEN__{listener.upper()}: the demo listens on HOST:PORT alone, not on {address}"
                )

    def _start_upstream(self) -> None:
        command = python_module("authz.demo.upstream", "--port", str(self.upstream_port))
        self._start("upstream", command).wait_for(self.upstream_port, "/healthz")

    def start_sidecar(self) -> None:
        command = python_module("authz", "serve", "--config", str(self._config_file), "--log-level", self._log_level)
        metrics_port = int(self.address("metrics").rpartition(":")[2])
        self._start("authz", command).wait_for(metrics_port, "/readyz")

    def envoy_config(self) -> str:
        authz, log, http = (int(self.address(name).rpartition(":")[2]) for name in ("authz", "grpc", "http"))
        return filled(
            edge=self.port,
            authz=authz,
            log=log,
            http=http,
            upstream=self.upstream_port,
            admin=self.admin_port,
            tls=self.tls_port,
            certificate=self.certificate,
            profile=self.profile.name,
        )

    def _start_envoy(self) -> None:
        config = self.folder / "envoy.yaml"
        config.write_text(self.envoy_config())
        command = [str(envoy_binary(self.environ)), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"]
        command += ["--log-level", "warning", "--file-flush-interval-msec", "500"]  # of its access log: ten seconds
        self._start("envoy", command).wait_for(self.admin_port, "/ready")

    def _start(self, name: str, command: list[str]) -> Process:
        process = Process(name, command, self.folder / f"{name}.log", self.environ)
        self.processes[name] = process
        return process

    def _stop_all(self) -> None:
        for name in ("envoy", "authz", "upstream"):
            if name in self.processes:
                self.processes[name].stop()

    def _create_keys(self) -> None:
        for name, new in self.profile.keys(self.configuration().settings):
            made = self.create_key(new)
            self.keys[name], self.records[name] = made.token, made.record
        if self.profile.tokens is not None:
            self.keys |= self.profile.tokens(self)

    def create_key(self, new: NewKey) -> IssuedKey:
        return self._administer(lambda admin: admin.create(new, COMMAND_LINE))

    def revoke(self, key: str, reason: str = "") -> KeyRecord:
        """By id or display prefix; in effect when this returns."""
        return self._administer(lambda admin: admin.revoke(key, reason, COMMAND_LINE))[0]

    def add_user(self, new: NewUser, password: str) -> KeyRecord:
        return self._in_store(
            lambda configuration, store: user_admin(configuration, store, Silent()).add(new, password, COMMAND_LINE)
        )

    def _administer(self, act: Callable[[KeyAdmin], Awaitable[T]]) -> T:
        return self._in_store(lambda configuration, store: act(key_admin(configuration, store, Silent())))

    def _in_store(self, act: Callable[[Configuration, Store], Awaitable[T]]) -> T:
        async def run() -> T:
            configuration = self.configuration()
            data = Path(self.environ["AUTHZ_DATA"])
            async with open_store(configuration.settings, Silent(), timeout_s=PATIENCE_S, data=data) as store:
                return await act(configuration, store)

        return asyncio.run(run())

    def command_environment(self) -> dict[str, str]:
        """By which `authz` in another shell finds this stack's store; listing and revoking need no secret."""
        store = "AUTHZ_STORE__URL" if "AUTHZ_STORE__URL" in self.environ else "AUTHZ_DATA"
        return {"AUTHZ_CONFIG": str(self._config_file), store: self.environ[store]}


def no_such_profile(name: str) -> str:
    return f"there is no profile {name!r}; there are: {', '.join(PROFILES)}"
