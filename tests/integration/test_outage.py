"""A stack that is hurt: the store, the sidecar; what clients see, and that it mends."""

import signal
import time
from collections.abc import Iterator

import pytest
import redis

from authz.admin.keys import NewKey
from authz.demo.stack import Stack
from authz.demo.tour import Answer, ask


pytestmark = pytest.mark.xdist_group("outage")


@pytest.fixture(scope="module")
def hurt() -> Iterator[Stack]:
    with Stack(port=0) as running:
        yield running


def get(stack: Stack) -> Answer:
    return ask(stack.port, "GET", "/v1/models", key=stack.keys["read-only"])


def store_pid(stack: Stack) -> int:
    with redis.Redis.from_url(stack.store_url) as client:
        return int(client.info("server")["process_id"])


def ready(stack: Stack, query: str = "") -> Answer:
    return ask(int(stack.address("metrics").rpartition(":")[2]), "GET", f"/readyz{query}")


def until(stack: Stack, status: int, within_s: float) -> Answer:
    deadline_s = time.monotonic() + within_s
    while (answer := get(stack)).status != status and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return answer


def test_a_hung_store_is_a_503_and_public_paths_stay(hurt: Stack) -> None:
    """With Retry-After and our body, never a 403; the sidecar stays ready, as one blip must not take every pod out."""
    import os

    pid = store_pid(hurt)
    assert get(hurt).status == 200
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = [get(hurt) for _ in range(8)]
        assert ask(hurt.port, "GET", "/healthz").status == 200
        assert ask(hurt.port, "GET", "/v1/models").status == 401
        deadline_s = time.monotonic() + 5
        while b"store: down" not in (told := ready(hurt, "?verbose")).body and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert told.status == 200
        assert b"store: down" in told.body
    finally:
        os.kill(pid, signal.SIGCONT)

    assert {answer.status for answer in answers} == {503}
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}
    assert {answer.json["error"]["code"] for answer in answers} == {"store_unavailable"}
    assert until(hurt, 200, 2).status == 200


def test_a_dead_sidecar_is_a_503_of_envoy_and_a_new_one_serves(hurt: Stack) -> None:
    hurt.processes["authz"].stop()
    answer = get(hurt)
    hurt.start_sidecar()

    assert answer.status == 503
    assert answer.json["error"]["code"] == "authorizer_unavailable"
    assert until(hurt, 200, 5).status == 200


def test_a_hung_sidecar_costs_envoys_timeout(hurt: Stack) -> None:
    hurt.processes["authz"].signal(signal.SIGSTOP)
    try:
        start_s = time.monotonic()
        answer = get(hurt)
        waited_s = time.monotonic() - start_s
    finally:
        hurt.processes["authz"].signal(signal.SIGCONT)

    assert answer.status == 503
    assert waited_s < 1
    assert until(hurt, 200, 5).status == 200


def test_an_emptied_store_is_a_503_until_the_sidecar_is_restarted() -> None:
    """On a stack of its own, as every key is gone; a key made in the emptied store changes nothing before."""
    with Stack(port=0) as emptied:
        assert get(emptied).status == 200
        with redis.Redis.from_url(emptied.store_url) as client:
            client.flushall()
        answer = get(emptied)
        fresh = emptied.create_key(NewKey("first of the new store", scopes=("read-only",))).token
        still = ask(emptied.port, "GET", "/v1/models", key=fresh)
        emptied.processes["authz"].stop()
        told = (emptied.folder / "authz.log").read_text()
        emptied.start_sidecar()

        assert (answer.status, answer.json["error"]["code"], still.status) == (503, "store_unavailable", 503)
        assert "lost what it held" in told
        assert ask(emptied.port, "GET", "/v1/models", key=fresh).status == 200
        assert get(emptied).status == 401
