"""
The whole stack: embedded Valkey, the sidecar, a real Envoy, and a mock model API behind it.

Everything is a process of its own, started as a user would start it. The environment's `AUTHZ_` overrides count, so the
demo runs on a store and a secret of one's own as well.
"""

import asyncio
import secrets
import shlex
import sys
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
from authz.demo.processes import (
    DATA,
    MARK,
    DemoError,
    Guardian,
    Process,
    envoy_binary,
    free_port,
    inherited,
    is_free,
    python_module,
)
from authz.demo.profiles import PROFILES, variable
from authz.settings import Configuration, load_settings


DEFAULT_PORT: Final = 10000
T = TypeVar("T")


class Stack:
    """
    Use as a context manager; inside it everything answers.

    Args:
        port: Envoy's; 0: a free one.
        environ: In place of the process's own, of which what another demo told its shell is left aside.
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
            told = "choose another port for Envoy with --port N (under make: ARGS='--port N')"
            raise DemoError(f"127.0.0.1:{port} is in use: {told}")
        self.profile = PROFILES[profile]
        self._log_level = log_level
        self.port = port or free_port()
        self._exit = ExitStack()
        self.environ = inherited(environ)
        self._overrides = {name: value for name, value in self.environ.items() if name.startswith("AUTHZ_")}
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
            self.folder = Path(starting.enter_context(tempfile.TemporaryDirectory(prefix=MARK)))
            self._guardian = Guardian(self.folder)
            starting.callback(self._guardian.stop)
            self._prepare()
            starting.callback(self._stop_all)
            self._start_upstream()
            self.start_sidecar()
            self._start_envoy()
            self._create_keys()
            self._write_shell_file()
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
        self.environ.setdefault("AUTHZ_JWT_SECRET", MARK + secrets.token_urlsafe(48))
        self.environ.setdefault("AUTHZ_PEPPER", MARK + secrets.token_urlsafe(48))
        self.environ.setdefault("AUTHZ_DATA", str(self.folder / DATA))
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
        process = Process(name, command, self.folder / f"{name}.log", self.environ, self._guardian.group)
        self._guardian.watch(process)
        self.processes[name] = process
        return process

    def _stop_all(self) -> None:
        for name in ("envoy", "authz", "upstream"):
            if name in self.processes:
                self.processes[name].stop()
        EmbeddedStore(self.folder / DATA).shut_down()  # if the sidecar was killed

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

    @property
    def shell_file(self) -> Path:
        """To be sourced: it makes a shell this stack's, for `authz` and for `curl`. Secrets are in it."""
        return self.folder / "env.sh"

    def _write_shell_file(self) -> None:
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in self._shell().items()]
        self.shell_file.touch(mode=0o600)
        self.shell_file.write_text(
            f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n{"".join(lines)}'
            '[ -z "${ZSH_VERSION-}" ] || setopt interactivecomments\n'
        )

    def _shell(self) -> dict[str, str]:
        """The sidecar's configuration, addresses, keys. What was made for it another demo knows by its mark."""
        values = {name: value for name, value in self._overrides.items() if not name.startswith("AUTHZ_LISTEN__")}
        values |= {name: self.environ[name] for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER")}
        if "AUTHZ_DATA" in self._overrides:
            values["AUTHZ_DATA"] = str(Path(self._overrides["AUTHZ_DATA"]).resolve())
        elif self._overrides.get("AUTHZ_STORE__URL", "embedded") == "embedded":
            values["AUTHZ_STORE__URL"] = self.store_url
        values |= {
            "AUTHZ_CONFIG": str(self._config_file),
            "AUTHZ_URL": f"http://{self.address('http')}",
            "AUTHZ_ADMIN_KEY": self.keys.get("admin", ""),
            "ENVOY": self.url,
        }
        return values | {variable(name): token for name, token in self.keys.items()}


def no_such_profile(name: str) -> str:
    return f"there is no profile {name!r}; there are: {', '.join(PROFILES)}"
