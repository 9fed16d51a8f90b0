"""A running stack whose access log is recorded beside the sidecar, so that it can be played again."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import yaml
from envoy.service.accesslog.v3 import als_pb2

from authz.adapters.envoy.accesslog import METHOD, SERVICE
from authz.adapters.logs.silent import Silent
from authz.admin.keys import IssuedKey, NewKey
from authz.app import StoreParts, SystemClock, authorizer, open_store
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Deny
from authz.core.request import PlainRequest
from authz.demo.envoy_config import written
from authz.demo.processes import free_port
from authz.demo.stack import Stack
from authz.demo.tour import Answer, ask


PATIENCE_S: Final = 15.0
ALWAYS: Final = Limit(10**6, 1)
SLOW: Final = 31 * 86_400  # seconds in which a bucket fills: while a test runs, it does not
CHAT: Final = "/v1/chat/completions"
STYLES: Final = "\nresponses: {ratelimit_headers: [x-ratelimit, openai, ietf]}\n"


class Recorder:
    """An access log service that keeps every message."""

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[bytes] = []
        self._lock = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        handler: Any = grpc.stream_unary_rpc_method_handler(self._record)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")

    def _record(self, messages: Iterator[bytes], _: object) -> bytes:
        for message in messages:
            with self._lock:
                self.messages.append(message)
        return b""

    @property
    def entries(self) -> Sequence[Any]:
        with self._lock:
            return [
                entry
                for message in self.messages
                for entry in als_pb2.StreamAccessLogsMessage.FromString(message).http_logs.log_entry
            ]

    @contextmanager
    def running(self) -> Iterator[None]:
        self._server.start()
        try:
            yield
        finally:
            self._server.stop(0).wait()


class Metered(Stack):
    """Every style of limit headers; Envoy logs to *recorder* as well; no check is given up on a busy machine."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(port=0, environ=os.environ | {"AUTHZ_STORE__TIMEOUT": "5s"})
        self.recorder = recorder

    def _prepare(self) -> None:
        super()._prepare()
        self._config_file.write_text(self._config_file.read_text() + STYLES)

    def envoy_config(self) -> str:
        bootstrap: Any = yaml.safe_load(super().envoy_config())
        static = bootstrap["static_resources"]
        (hcm,) = [
            one["typed_config"]
            for one in static["listeners"][0]["filter_chains"][0]["filters"]
            if one["name"] == "envoy.filters.network.http_connection_manager"
        ]
        (check,) = [one["typed_config"] for one in hcm["http_filters"] if one["name"] == "authz.check"]
        check["grpc_service"]["timeout"] = "5s"
        (told,) = [log for log in hcm["access_log"] if "grpc" in json.dumps(log)]
        again = json.loads(json.dumps(told))
        again["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "recorder"
        hcm["access_log"].append(again)
        (cluster,) = [one for one in static["clusters"] if one["name"] == "authz_log"]
        recorder = json.loads(json.dumps(cluster))
        recorder["name"] = recorder["load_assignment"]["cluster_name"] = "recorder"
        endpoint = recorder["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"]["socket_address"]["port_value"] = self.recorder.port
        static["clusters"].append(recorder)
        return written(bootstrap)

    def start_envoy(self) -> None:
        self._start_envoy()

    def key(self, tokens: int = 100_000, period_s: int = SLOW) -> IssuedKey:
        """With a bucket of tokens and as many requests as one likes."""
        limits = {"requests": ALWAYS, "tokens": Limit(tokens, period_s)}
        return self.create_key(NewKey("metered", scopes=("read-write",), limits=limits))

    def chat(self, key: IssuedKey, words: int, **body: Any) -> Answer:
        """A question of *words* words; its answer has two more, at most 102."""
        question = {"role": "user", "content": "word " * words}
        return ask(self.port, "POST", CHAT, key=key.token, body={"model": "m", "messages": [question], **body})

    def stream(self, key: IssuedKey, words: int, **body: Any) -> Answer:
        return self.chat(key, words, stream=True, stream_options={"include_usage": True}, **body)

    def usage(self, key: IssuedKey) -> Any:
        port = int(self.address("http").rpartition(":")[2])
        got = ask(port, "GET", f"/authz/v1/keys/{key.record.id}/usage", key=self.keys["admin"])
        assert got.status == 200, got
        return got.json

    def usage_when(self, key: IssuedKey, expected: Callable[[Any], bool]) -> Any:
        """Once it is as *expected*; as it is at last, if it does not come to that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not expected(told := self.usage(key)) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return told

    def tokens_left(self, key: IssuedKey) -> int:
        """In the bucket, below zero if owed; asked without spending."""

        async def run() -> Decision:
            configuration, clock = self.configuration(), SystemClock()
            data = Path(self.environ["AUTHZ_DATA"])
            async with open_store(configuration.settings, Silent(), timeout_s=PATIENCE_S, data=data) as store:
                pipeline = authorizer(configuration, StoreParts.on(store, clock, Silent()), clock)
                asked = PlainRequest("GET", "/v1/models", headers={"authorization": f"Bearer {key.token}"})
                return await pipeline.check(asked, spend=False)

        decision = asyncio.run(run())
        assert isinstance(decision, Allow | Deny), decision
        (left,) = [quota.remaining for quota in decision.quotas if quota.unit == "tokens"]
        return left

    def replay(self) -> None:
        """Everything that was recorded, to the sidecar, as Envoy sends it; until it has booked what it will."""
        with grpc.insecure_channel(self.address("grpc")) as channel:
            send: Any = channel.stream_unary(f"/{SERVICE}/{METHOD}")
            send(iter(self.recorder.messages), timeout=PATIENCE_S)
        deadline_s = time.monotonic() + PATIENCE_S
        while b"authz_settlement_waiting 0.0" not in self._metrics():
            assert time.monotonic() < deadline_s
            time.sleep(0.02)

    def _metrics(self) -> bytes:
        return ask(int(self.address("metrics").rpartition(":")[2]), "GET", "/metrics").body


def told_usage(answer: Answer) -> tuple[int, int]:
    """Input and output tokens, of a plain answer or a streamed one."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = answer.body.decode().strip().split("\n\n")
        usage = json.loads(events[-2].removeprefix("data: "))["usage"]
    else:
        usage = answer.json["usage"]
    return usage["prompt_tokens"], usage["completion_tokens"]
