"""Real stores for tests: containers where Docker answers, the embedded binaries where it does not."""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
import redis

from authz.adapters.redis.embedded import server_binary
from authz.demo.processes import free_port


IMAGES = {"valkey": "valkey/valkey:9", "redis": "redis:7"}


class Server(Protocol):
    """One store that can be hurt."""

    @property
    def url(self) -> str: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def kill(self) -> None: ...
    def restart(self) -> None: ...
    def stop(self) -> None: ...


@functools.cache
def docker_answers() -> bool:
    """By its socket alone: asking through the client would leave a connection open where nobody answers."""
    host = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not host.startswith("unix://"):
        return bool(host)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(3)
        try:
            probe.connect(host.removeprefix("unix://"))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"OK" in probe.recv(4096)
        except OSError:
            return False


class LocalServer:
    """A server process on loopback; `arguments` are the server's own."""

    def __init__(self, binary: str, *arguments: str, port: int | None = None) -> None:
        self._folder = tempfile.mkdtemp(prefix="authz-store-")
        self._command = [binary, "--bind", "127.0.0.1", "--dir", self._folder, "--save", ""]
        self._command += ["--enable-debug-command", "yes", *arguments]
        self.port = port or _cluster_port()
        self._process = self._start()
        while port is None and not self._answers_itself():
            self.kill()
            self.port = _cluster_port()
            self._process = self._start()

    def _answers_itself(self) -> bool:
        """Not so where another worker was given the same port as free, and was faster: two would share one store."""
        with self.client as client:
            return bool(client.info("server")["process_id"] == self._process.pid)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        return redis.Redis(port=self.port)

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [*self._command, "--port", str(self.port)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.url)
        return process

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self._process = self._start()

    def stop(self) -> None:
        self.resume()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class ContainerServer:
    """The same in a container."""

    def __init__(self, engine: str, *arguments: str) -> None:
        from testcontainers.core.container import DockerContainer

        self._container: Any = DockerContainer(IMAGES[engine]).with_exposed_ports(6379)
        self._container.with_command([f"{engine}-server", "--save", "", "--enable-debug-command", "yes", *arguments])
        self._container.start()
        wait_for(self.url)

    @property
    def url(self) -> str:
        return f"redis://{self._container.get_container_host_ip()}:{self._container.get_exposed_port(6379)}"

    def pause(self) -> None:
        self._container.get_wrapped_container().pause()

    def resume(self) -> None:
        self._container.get_wrapped_container().unpause()

    def kill(self) -> None:
        self._container.get_wrapped_container().kill()

    def restart(self) -> None:
        self._container.get_wrapped_container().start()
        wait_for(self.url)

    def stop(self) -> None:
        self._container.stop()


def start(engine: str, *arguments: str) -> Server:
    """A store of *engine*, `valkey` or `redis`; the test is skipped, and says so, where there is none."""
    if docker_answers():
        return ContainerServer(engine, *arguments)
    return LocalServer(local_binary(engine), *arguments)


def local_binary(engine: str) -> str:
    if engine == "valkey":
        return str(server_binary())
    if found := shutil.which("redis-server"):
        return found
    pytest.skip("no redis-server on this machine and no Docker: install the package redis-server to run this on Redis")


def wait_for(url: str) -> None:
    deadline_s = time.monotonic() + 15
    while time.monotonic() < deadline_s:
        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url, socket_timeout=2) as client:
            if client.ping():
                return
        time.sleep(0.02)
    raise TimeoutError(f"{url} does not answer")


def _cluster_port() -> int:
    """A free port whose cluster bus (port + 10000) is a port as well."""
    while (port := free_port()) >= 50000:
        pass
    return port


@dataclass
class Cluster:
    """Three primaries, the slots cut in thirds."""

    nodes: list[LocalServer]

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"


@contextlib.contextmanager
def cluster(engine: str = "valkey") -> Iterator[Cluster]:
    """Local processes in any case: a cluster's nodes name one another by address, which containers hide."""
    with contextlib.ExitStack() as stack:
        nodes = [
            LocalServer(local_binary(engine), "--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
            for _ in range(3)
        ]
        for node in nodes:
            stack.callback(node.stop)
        for number, node in enumerate(nodes):
            last = min(16383, (number + 1) * 5462 - 1)
            node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * 5462, last)
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
        _wait_for_cluster(nodes)
        yield Cluster(nodes)


def _wait_for_cluster(nodes: list[LocalServer]) -> None:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        states = [node.client.cluster("INFO") for node in nodes]
        if all(state["cluster_state"] == "ok" and int(state["cluster_known_nodes"]) == 3 for state in states):
            return
        time.sleep(0.05)
    raise TimeoutError("the cluster did not come together")


def flush(url: str) -> None:
    """Empty a store, all nodes of it."""
    on_all_nodes(url, "FLUSHALL")


def on_all_nodes(url: str, *command: str) -> None:
    if url.startswith("redis+cluster://"):
        with redis.RedisCluster.from_url(url.replace("redis+cluster", "redis", 1)) as client:
            for node in client.get_primaries():
                client.execute_command(*command, target_nodes=node)
    else:
        with redis.Redis.from_url(url) as client:
            client.execute_command(*command)
