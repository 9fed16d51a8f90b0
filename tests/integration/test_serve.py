"""`authz serve` by itself: start, readiness, faults at start, health, reflection, malformed checks, the end."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.auth.v3 import external_auth_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from authz.demo.processes import Process, free_port, status_of
from authz.demo.tour import ask
from tests.support import stores
from tests.support.parts import SECRET


messages: Any = reflection_pb2


class Sidecar:
    """One `authz serve`, its ports, and what it says."""

    RUN_BY: tuple[str, ...] = ()  # a command that runs another one

    def __init__(self, folder: Path, store: str, **extra: str) -> None:
        self.ports = {name: free_port() for name in ("authz", "grpc", "http", "metrics")}
        self.environ = base_environ(
            AUTHZ_STORE__URL=store,
            AUTHZ_LISTEN__AUTHZ=f"127.0.0.1:{self.ports['authz']}",
            AUTHZ_LISTEN__GRPC=f"127.0.0.1:{self.ports['grpc']}",
            AUTHZ_LISTEN__HTTP=f"127.0.0.1:{self.ports['http']}",
            AUTHZ_LISTEN__METRICS=f"127.0.0.1:{self.ports['metrics']}",
        )
        self.environ |= extra
        self.log = folder / f"{self.ports['authz']}.log"
        self.process = Process("authz", [*self.RUN_BY, sys.executable, "-m", "authz", "serve"], self.log, self.environ)

    def ready(self) -> None:
        self.process.wait_for(self.ports["metrics"], "/readyz")

    def text(self) -> str:
        return self.log.read_text()


def base_environ(**changes: str) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
    return {**ours, "AUTHZ_JWT_SECRET": SECRET, **changes}


@contextmanager
def serving(folder: Path, store: str, **extra: str) -> Iterator[Sidecar]:
    sidecar = Sidecar(folder, store, **extra)
    try:
        yield sidecar
    finally:
        sidecar.process.signal(18)
        sidecar.process.stop()


def run(*arguments: str, environ: Mapping[str, str], cwd: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "authz", *arguments]
    return subprocess.run(command, env=dict(environ), cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def check(port: int, message: bytes) -> external_auth_pb2.CheckResponse:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        return external_auth_pb2.CheckResponse.FromString(call(message, timeout=5))


def health(port: int) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service="envoy.service.auth.v3.Authorization")
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(request, timeout=5).status)


def test_ready_health_reflection_and_a_clean_end(tmp_path: Path, valkey_url: str) -> None:
    with serving(tmp_path, valkey_url) as sidecar:
        sidecar.ready()

        assert health(sidecar.ports["authz"]) == health_pb2.HealthCheckResponse.SERVING
        assert health(sidecar.ports["grpc"]) == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(f"127.0.0.1:{sidecar.ports['grpc']}") as channel:
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            asked = iter([messages.ServerReflectionRequest(list_services="")])
            answer = next(iter(stub.ServerReflectionInfo(asked, timeout=5)))
        listed = {service.name for service in answer.list_services_response.service}
        assert {"authz.admin.v1.KeyService", "grpc.health.v1.Health"} <= listed
        assert status_of(sidecar.ports["metrics"], "/healthz") == 200
        sidecar.process.stop()

        assert not sidecar.process.is_running
        assert '"event": "stopped"' in sidecar.text()
        assert "Traceback" not in sidecar.text()


@pytest.mark.parametrize("engine", ["valkey", "redis", "cluster"])
def test_ready_on_every_kind_of_store_and_a_503_when_it_is_gone(tmp_path: Path, engine: str) -> None:
    """An answer within the time-out, never an error or a wait: an error is what `failure_mode_allow` lets pass."""
    with contextlib.ExitStack() as stack:
        if engine == "cluster":
            cluster = stack.enter_context(stores.cluster())
            url, nodes = cluster.url, cluster.nodes
        else:
            nodes = [stores.LocalServer(stores.local_binary(engine))]
            url = nodes[0].url
            stack.callback(nodes[0].stop)
        sidecar = stack.enter_context(serving(tmp_path, url))
        sidecar.ready()
        made = run("keys", "create", "--name", "n", "--scope", "read-only", environ=sidecar.environ, cwd=tmp_path)
        message: Any = external_auth_pb2.CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = "GET", "/v1/models"
        http.headers["authorization"] = f"Bearer {made.stdout.splitlines()[0]}"
        until_state(sidecar, "up")
        before = check(sidecar.ports["authz"], message.SerializeToString())
        for node in nodes:
            node.kill()
        gone = [check(sidecar.ports["authz"], message.SerializeToString()) for _ in range(8)]
        until_state(sidecar, "down")

        assert before.status.code == 0
        assert {answer.denied_response.status.code for answer in gone} == {503}


def until_state(sidecar: Sidecar, state: str) -> None:
    deadline_s = time.monotonic() + 10
    while f"store: {state}" not in ask(sidecar.ports["metrics"], "GET", "/readyz?verbose").body.decode():
        assert time.monotonic() < deadline_s, sidecar.text()
        time.sleep(0.02)


def test_sigterm_under_load_loses_no_check_that_had_an_answer_coming(tmp_path: Path, valkey_url: str) -> None:
    """Four clients ask one after the other until they are told that it is over: each answer before is an answer."""
    with serving(tmp_path, valkey_url) as sidecar:
        sidecar.ready()
        stopping = threading.Event()

        def ask_on() -> list[int]:
            codes = []
            with grpc.insecure_channel(f"127.0.0.1:{sidecar.ports['authz']}") as channel:
                call: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
                while not stopping.is_set():
                    answer = external_auth_pb2.CheckResponse.FromString(call(b"", timeout=5))
                    codes.append(int(answer.denied_response.status.code))
            return codes

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(ask_on) for _ in range(4)]
            time.sleep(0.3)
            sidecar.process.signal(signal.SIGTERM)
            while status_of(sidecar.ports["metrics"], "/readyz") == 200:
                pass
            time.sleep(0.3)  # not ready: whoever asks goes elsewhere in a moment
            stopping.set()
            codes = [code for client in clients for code in client.result()]

        assert len(codes) > 20
        assert set(codes) == {400}
        assert sidecar.process.ended() == 0


def test_sigterm_lets_what_is_under_way_finish(tmp_path: Path) -> None:
    """A check that waits for the store when the end is asked for gets its answer; meanwhile: not ready."""
    store = stores.LocalServer(stores.local_binary("valkey"))
    try:
        with serving(tmp_path, store.url, AUTHZ_STORE__TIMEOUT="5s") as sidecar:
            sidecar.ready()
            made = run("keys", "create", "--name", "n", "--scope", "read-only", environ=sidecar.environ, cwd=tmp_path)
            message: Any = external_auth_pb2.CheckRequest()
            http = message.attributes.request.http
            http.method, http.path = "GET", "/v1/models"
            http.headers["authorization"] = f"Bearer {made.stdout.splitlines()[0]}"
            assert check(sidecar.ports["authz"], message.SerializeToString()).status.code == 0
            store.pause()
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(check, sidecar.ports["authz"], message.SerializeToString())
                time.sleep(0.3)  # until it is under way: nothing tells from outside
                sidecar.process.signal(signal.SIGTERM)
                while (status := status_of(sidecar.ports["metrics"], "/readyz")) == 200:
                    pass
                store.resume()
                assert (status, waiting.result().status.code) == (503, 0)
            assert sidecar.process.ended() == 0
    finally:
        store.stop()


def test_a_store_that_cannot_be_reached_at_start(tmp_path: Path) -> None:
    """Not ready, and says so; serves 503; gets ready by itself once the store is there."""
    port = free_port()
    with serving(tmp_path, f"redis://127.0.0.1:{port}") as sidecar:
        while status_of(sidecar.ports["metrics"], "/healthz") != 200:
            assert sidecar.process.is_running
        assert status_of(sidecar.ports["metrics"], "/readyz") == 503
        assert health(sidecar.ports["authz"]) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert "not ready: the store cannot be reached" in sidecar.text()
        store = stores.LocalServer(stores.local_binary("valkey"), port=port)
        try:
            sidecar.ready()
            assert health(sidecar.ports["authz"]) == health_pb2.HealthCheckResponse.SERVING
        finally:
            store.stop()


@pytest.mark.parametrize("message", [b"", b"garbage", b"\x0a\x00"], ids=["empty", "garbage", "no http"])
def test_a_malformed_check_is_an_explicit_refusal(tmp_path: Path, valkey_url: str, message: bytes) -> None:
    """400 and a counter, never an exception: an error would be let through by `failure_mode_allow`."""
    with serving(tmp_path, valkey_url) as sidecar:
        sidecar.ready()

        answer = check(sidecar.ports["authz"], message)

        assert (answer.status.code, answer.denied_response.status.code) == (3, 400)
        metrics = ask(sidecar.ports["metrics"], "GET", "/metrics").body.decode()
        assert "authz_malformed_requests_total 1.0" in metrics
        assert 'authz_decisions_total{reason="bad_request",route="none"} 1.0' in metrics


@pytest.mark.parametrize("listener", ["authz", "grpc", "http", "metrics"])
def test_a_busy_port_is_named_with_its_option(tmp_path: Path, valkey_url: str, listener: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        sidecar = Sidecar(tmp_path, valkey_url, **{f"AUTHZ_LISTEN__{listener.upper()}": address})
        assert sidecar.process.ended() == 1

    (told,) = sidecar.text().splitlines()
    assert told.startswith(f"authz: listen.{listener}: cannot listen on {address}: ")
    assert told.endswith(f"Set listen.{listener} to another address")


def test_a_bad_configuration_stops_the_start_with_all_its_faults(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(
        "store: {tiemout: 50ms}\nroutes:\n- {path: /v1/**, scopes: [reed-only]}\nlimits: {default: {requests: 0/1m}}\n"
    )

    ended = run("serve", "--config", str(config), environ=base_environ(), cwd=tmp_path)

    assert ended.returncode == 2
    assert f"{config}: store.tiemout: unknown field (did you mean 'timeout'?)" in ended.stderr
    assert "routes[0].scopes[0]: unknown scope 'reed-only' (did you mean 'read-only'?)" in ended.stderr
    assert "limits.default.requests: the capacity must be from 1 to 1000000000" in ended.stderr
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr


def test_reloading_by_signal_and_by_change_of_the_file(tmp_path: Path, valkey_url: str) -> None:
    """A new route serves without a restart; a bad file is refused and counted, and the old one serves on."""
    config = tmp_path / "authz.yaml"
    config.write_text("routes: [{name: one, path: /one, public: true}]\n")
    with serving(tmp_path, valkey_url, AUTHZ_CONFIG=str(config)) as sidecar:
        sidecar.ready()

        def status(path: str) -> int:
            request: Any = external_auth_pb2.CheckRequest()
            request.attributes.request.http.method = "GET"
            request.attributes.request.http.path = path
            return int(check(sidecar.ports["authz"], request.SerializeToString()).denied_response.status.code)

        def until(told: str) -> None:
            deadline_s = time.monotonic() + 10
            while told not in ask(sidecar.ports["metrics"], "GET", "/metrics").body.decode():
                assert time.monotonic() < deadline_s, sidecar.text()
                time.sleep(0.02)

        assert (status("/one"), status("/two")) == (0, 401)
        config.write_text("routes: [{name: two, path: /two, public: true}]\nserver: grpcio\n")
        until("authz_config_generation 2.0")
        assert (status("/one"), status("/two")) == (401, 0)
        assert '"needs_restart": ["server"]' in sidecar.text()
        config.write_text("routes: [{name: three, path: three, public: true}]\n")
        until("authz_config_reloads_refused_total 1.0")
        assert status("/two") == 0
        assert "routes[0].path: a path starts with /" in sidecar.text()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "authz.yaml").write_text("routes: [{name: four, path: /four, public: true}]\n")
        config.unlink()
        config.symlink_to(tmp_path / "data" / "authz.yaml")
        until("authz_config_generation 3.0")
        assert status("/four") == 0
        sidecar.process.signal(signal.SIGHUP)
        until("authz_config_generation 4.0")


def test_a_warning_is_told_at_the_start_and_after_a_reload(tmp_path: Path, valkey_url: str) -> None:
    config = tmp_path / "authz.yaml"
    routes = '[{path: /v1/chat, rules: [small]}, {path: "/v1/**"}]'
    config.write_text(f"request_rules: {{small: {{max_body: 10}}}}\nroutes: {routes}\n")
    with serving(tmp_path, valkey_url, AUTHZ_CONFIG=str(config)) as sidecar:
        sidecar.ready()
        for times in (1, 2):
            deadline_s = time.monotonic() + 10
            while sidecar.text().count("'/v1/chat/' falls to routes[1]") < times:
                assert time.monotonic() < deadline_s, sidecar.text()
                time.sleep(0.02)
            sidecar.process.signal(signal.SIGHUP)
    told = [line for line in sidecar.text().splitlines() if "falls to" in line]
    assert all('"level": "warning"' in line for line in told)


def test_an_empty_store_is_a_503_that_says_so(tmp_path: Path, valkey_url: str) -> None:
    """And the first key that is made changes that, without a restart."""
    with serving(tmp_path, valkey_url) as sidecar:
        sidecar.ready()
        request = external_auth_pb2.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = "GET", "/v1/models"
        made = run("keys", "create", "--name", "later", "--scope", "read-only", environ=sidecar.environ, cwd=tmp_path)
        token = made.stdout.splitlines()[0]
        stores.flush(valkey_url)
        http.headers["authorization"] = f"Bearer {token}"

        empty = check(sidecar.ports["authz"], request.SerializeToString())
        created = run(
            "keys", "create", "--name", "first", "--scope", "read-only", environ=sidecar.environ, cwd=tmp_path
        )
        http.headers["authorization"] = f"Bearer {created.stdout.splitlines()[0]}"

        assert empty.denied_response.status.code == 503
        assert any("never held a key" in line or "lost what it held" in line for line in sidecar.text().splitlines())
