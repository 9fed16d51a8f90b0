"""What Envoy tells authz, with the bootstrap as it is shipped: of a request before the check, of an answer after it."""

import asyncio
import gzip
import json
import math
import re
import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from tests.support.usage_envoy import (
    DENIED,
    PATIENCE_S,
    SEALED,
    LockStep,
    Rig,
    answering,
    flags,
    metadata,
    streaming,
)


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("usage")]

JSON_LIMIT: Final = 16 * 1024 * 1024  # of answers
READ_LIMIT: Final = 64 * 1024  # of requests
MB: Final = 1000 * 1000
CHAT: Final = {"model": "asked", "max_tokens": 7, "messages": [{"role": "user", "content": "hi"}]}
USAGE: Final = {"model": "m", "input_tokens": 3.0, "output_tokens": 30.0, "total_tokens": 33.0}
ANSWER: Final = {"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 30, "total_tokens": 33}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    async with Rig(tmp_path_factory.mktemp("usage")) as running:
        yield running


def events(*contents: object) -> list[bytes]:
    named = [
        f"event: {content['type']}\n" if isinstance(content, dict) and "type" in content else "" for content in contents
    ]
    return [f"{name}data: {json.dumps(content)}\n\n".encode() for name, content in zip(named, contents, strict=True)]


def sized(size: int) -> bytes:
    """JSON of so many bytes."""
    return b'{"model":"asked","max_tokens":7,"pad":"%b"}' % (b"x" * (size - 41))


DONE: Final = b"data: [DONE]\n\n"
OPENAI_CHAT: Final = [
    *events(
        {"model": "m", "choices": [{"delta": {"content": "a"}}], "usage": None},
        {"model": "m", "choices": [{"delta": {"content": "b"}}], "usage": None},
        {"model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 30, "total_tokens": 33}},
    ),
    DONE,
]
OPENAI_RESPONSES: Final = events(
    {"type": "response.created", "response": {"model": "m", "usage": None}},
    {"type": "response.output_text.delta", "delta": "x"},
    {
        "type": "response.completed",
        "response": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 30, "total_tokens": 33}},
    },
)
ANTHROPIC: Final = events(
    {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"text": "hi"}},
    {"type": "ping"},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
    {"type": "message_stop"},
)
ANTHROPIC_USAGE: Final = {"model": "m", "input_tokens": 3.0, "output_tokens": 30.0}


# What an answer told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(ANSWER, USAGE, id="OpenAI: chat, completions"),
        pytest.param(
            {"model": "m", "data": [], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
            {"model": "m", "input_tokens": 8.0, "total_tokens": 8.0},
            id="OpenAI: embeddings",
        ),
        pytest.param(
            {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 30, "total_tokens": 33}},
            USAGE,
            id="OpenAI: responses",
        ),
        pytest.param(
            {"text": "x", "usage": {"type": "tokens", "input_tokens": 3, "output_tokens": 30, "total_tokens": 33}},
            USAGE | {"model": None},
            id="OpenAI: audio",
        ),
        pytest.param(
            {"type": "message", "model": "m", "usage": {"input_tokens": 3, "output_tokens": 30}},
            ANTHROPIC_USAGE,
            id="Anthropic",
        ),
        pytest.param({"text": "x", "usage": {"type": "duration", "seconds": 3}}, {}, id="by duration"),
        pytest.param({"model": "m", "usage": None}, {"model": "m"}, id="null"),
        pytest.param({"model": "m"}, {"model": "m"}, id="none"),
        pytest.param(
            {"model": "m", "usage": {"prompt_tokens": "3", "completion_tokens": -1, "total_tokens": 1e300}},
            {"model": "m", "input_tokens": 3.0, "output_tokens": -1.0, "total_tokens": 1e300},
            id="odd numbers",
        ),
        pytest.param({"usage": {"prompt_tokens": [3], "completion_tokens": {"a": 1}}}, {}, id="no numbers"),
        pytest.param([ANSWER], {}, id="an array"),
        pytest.param({"choices": [{"message": ANSWER}], "response": ANSWER, "message": ANSWER}, {}, id="elsewhere"),
    ],
)
async def test_what_a_json_answer_told(rig: Rig, answer: object, told: dict[str, object]) -> None:
    body = json.dumps(answer).encode()
    path = rig.path(answering(body))

    got = await rig.post(path, CHAT)

    assert (got.status, got.body) == (200, body)
    assert await rig.usage(path) == {key: value for key, value in told.items() if value is not None}


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        pytest.param(OPENAI_CHAT, USAGE, id="OpenAI: chat"),
        pytest.param([*OPENAI_CHAT[:2], DONE], {"model": "m"}, id="OpenAI: chat without include_usage"),
        pytest.param(OPENAI_RESPONSES, USAGE, id="OpenAI: responses"),
        pytest.param(
            events(
                {"type": "transcript.text.delta", "delta": "x"},
                {"type": "transcript.text.done", "usage": {"input_tokens": 3, "output_tokens": 30, "total_tokens": 33}},
            ),
            USAGE | {"model": None},
            id="OpenAI: audio",
        ),
        pytest.param(ANTHROPIC, ANTHROPIC_USAGE, id="Anthropic"),
        pytest.param(
            [*ANTHROPIC[:3], *events({"type": "message_delta", "usage": {"input_tokens": 5, "output_tokens": 30}})],
            ANTHROPIC_USAGE | {"input_tokens": 5.0},
            id="Anthropic, the input put right at the end",
        ),
        pytest.param(ANTHROPIC[:3], {"model": "m", "input_tokens": 3.0}, id="Anthropic, cut: no output_tokens"),
        pytest.param(
            events(*({"model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": n}} for n in (1, 2, 3))),
            {"model": "m", "input_tokens": 3.0, "output_tokens": 3.0},
            id="told in every event: the last counts",
        ),
        pytest.param(
            [b"data: {\n\n", b"data: [1]\n\n", b"data\n\n", *OPENAI_CHAT], USAGE, id="with events that are no JSON"
        ),
        pytest.param(
            [*OPENAI_CHAT[:2], OPENAI_CHAT[2].rstrip()], {"model": "m"}, id="the last without its end: not told"
        ),
    ],
)
async def test_what_a_stream_told(rig: Rig, pieces: list[bytes], told: dict[str, object]) -> None:
    path = rig.path(streaming(pieces))

    got = await rig.post(path, CHAT | {"stream": True})

    assert (got.status, got.body) == (200, b"".join(pieces))
    assert await rig.usage(path) == {key: value for key, value in told.items() if value is not None}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "Application/JSON ;Charset=UTF-8",
        "application/vnd.api+json",
        "application/problem+json; x=y",
    ],
)
async def test_json_by_other_names(rig: Rig, content_type: str) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode(), content_type))

    await rig.post(path, CHAT, content_type=content_type)

    assert await rig.usage(path) == USAGE
    assert metadata(await rig.sidecar.entry(path), "authz.request") == {"model": "asked", "max_tokens": 7.0}


@pytest.mark.parametrize(
    "content_type", ["application/x-ndjson", "application/json-seq", "text/plain", "application/jsonl"]
)
async def test_what_is_not_json_is_neither_read_nor_held(rig: Rig, content_type: str) -> None:
    stepwise = LockStep([b'{"model":"m"}\n'] * 3, content_type)
    path = rig.path(stepwise)

    async with asyncio.timeout(PATIENCE_S), rig.opened(path, CHAT, content_type=content_type) as answer:
        await stepwise.read(answer)

    assert await rig.usage(path) == {}
    assert metadata(await rig.sidecar.entry(path), "authz.request") == {}


@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "Text/Event-Stream ;Charset=UTF-8"])
async def test_streams_by_other_names(rig: Rig, content_type: str) -> None:
    path = rig.path(streaming(OPENAI_CHAT, content_type))

    await rig.post(path, CHAT)

    assert await rig.usage(path) == USAGE


# Streams and answers in hostile pieces


SMALL: Final = (
    b": hi\r\n"
    b'data: {"model":"m\xc3\xbc\xf0\x9f\x98\x80",\r\n'
    b'data: "usage":{"prompt_tokens":3}}\r\n\r\n'
    b'data:{"usage":{"completion_tokens":30}}\n\n'
)
SMALL_USAGE: Final = {"model": "mü😀", "input_tokens": 3.0, "output_tokens": 30.0}


async def test_a_stream_byte_by_byte(rig: Rig) -> None:
    """Each byte has reached the client before the next one is sent: so Envoy reads every one by itself."""
    stepwise = LockStep([SMALL[at : at + 1] for at in range(len(SMALL))])
    path = rig.path(stepwise)

    async with asyncio.timeout(PATIENCE_S), rig.opened(path, CHAT) as answer:
        assert await stepwise.read(answer) == SMALL

    assert await rig.usage(path) == SMALL_USAGE


async def test_a_stream_cut_in_two_at_every_place(rig: Rig) -> None:
    async def told(at: int) -> dict[str, object]:
        stepwise = LockStep([SMALL[:at], SMALL[at:]])
        path = rig.path(stepwise)
        async with rig.opened(path, CHAT) as answer:
            assert await stepwise.read(answer) == SMALL
        return await rig.usage(path)

    async with asyncio.timeout(PATIENCE_S):
        every = await asyncio.gather(*map(told, range(1, len(SMALL))))

    assert every == [SMALL_USAGE] * (len(SMALL) - 1)


@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(b"".join(OPENAI_CHAT), id="all of it in one chunk"),
        pytest.param(b"".join(OPENAI_CHAT).replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(b"".join(OPENAI_CHAT).replace(b"\n", b"\r"), id="CR"),
        pytest.param(b"\xef\xbb\xbf" + b"".join(OPENAI_CHAT), id="BOM"),
        pytest.param(b": ping\n\n" + b":\n\n".join(OPENAI_CHAT), id="comments"),
        pytest.param(b"id: 1\nretry: 5\n" + b"".join(OPENAI_CHAT), id="other fields"),
        pytest.param(b"".join(OPENAI_CHAT).replace(b'"usage":', b'\ndata:"usage":'), id="several lines of data"),
        pytest.param(b"".join(OPENAI_CHAT).replace(b"data: ", b"data:"), id="without the space"),
    ],
)
async def test_streams_in_every_spelling(rig: Rig, whole: bytes) -> None:
    path = rig.path(streaming([whole]))

    assert (await rig.post(path, CHAT)).body == whole

    assert await rig.usage(path) == USAGE


@pytest.mark.parametrize("size", [200_000, 9 * MB])
async def test_a_large_event(rig: Rig, size: int) -> None:
    """OpenAI's response.completed repeats the whole answer."""
    last = {
        "type": "response.completed",
        "response": {"output": "x" * size, "model": "m", "usage": {"output_tokens": 30}},
    }
    path = rig.path(streaming(events(last)))

    got = await rig.post(path, CHAT)

    assert len(got.body) > size
    assert await rig.usage(path) == {"model": "m", "output_tokens": 30.0}


async def test_an_event_above_10_mib_passes_unread(rig: Rig) -> None:
    last = {"model": "late", "pad": "x" * (11 * 1024 * 1024), "usage": {"output_tokens": 30}}
    whole = b"".join([*OPENAI_CHAT[:1], *events(last)])
    path = rig.path(streaming([whole]))

    assert (await rig.post(path, CHAT)).body == whole

    assert await rig.usage(path) == {"model": "m"}


async def test_a_json_answer_byte_by_byte(rig: Rig) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode(), step=1))

    await rig.post(path, CHAT)

    assert await rig.usage(path) == USAGE


async def test_streams_are_not_held_back(rig: Rig) -> None:
    """An event is with the client before the API sends the next: else this would hang."""
    stepwise = LockStep(OPENAI_CHAT)
    path = rig.path(stepwise)

    async with asyncio.timeout(PATIENCE_S), rig.opened(path, CHAT | {"stream": True}) as answer:
        assert await stepwise.read(answer) == b"".join(OPENAI_CHAT)

    assert await rig.usage(path) == USAGE


# Compressed answers


async def test_a_client_that_takes_gzip_is_answered_plainly(rig: Rig) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode()))

    await rig.post(path, CHAT, accept_encoding="gzip, br")

    assert "accept-encoding" not in rig.api.received[path].headers
    assert await rig.usage(path) == USAGE


async def test_elsewhere_compression_is_the_apis_business(rig: Rig) -> None:
    path = rig.path(answering(b"{}"))

    await rig.post(path, method="GET", accept_encoding="gzip, br")

    assert rig.api.received[path].headers["accept-encoding"] == "gzip, br"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [("application/json", json.dumps(ANSWER).encode()), ("text/event-stream", b"".join(OPENAI_CHAT))],
)
async def test_an_api_that_compresses_unasked_is_passed_on_untouched(rig: Rig, content_type: str, body: bytes) -> None:
    """No usage is told then, and the entry says why."""
    packed = gzip.compress(body)
    path = rig.path(answering(packed, content_type, content_encoding="gzip"))

    got = await rig.post(path, CHAT)

    entry = await rig.sidecar.entry(path)
    assert (got.body, got.headers["content-encoding"]) == (packed, "gzip")
    assert await rig.usage(path) == {}
    assert dict(entry.response.response_headers) == {"content-type": content_type, "content-encoding": "gzip"}


# Sizes


async def test_10_mb_of_json_both_ways(rig: Rig) -> None:
    """The request passes unread."""
    question, answer = sized(10 * MB), json.dumps(ANSWER | {"pad": "a" * 10 * MB}).encode()
    path = rig.path(answering(answer))

    got = await rig.post(path, question)

    assert (rig.api.received[path].body == question, got.body == answer) == (True, True)
    entry = await rig.sidecar.entry(path)
    assert (metadata(entry, "authz.request"), metadata(entry, "authz.usage")) == ({}, USAGE)


async def test_a_json_answer_above_the_limit_is_lost(rig: Rig) -> None:
    """A 500 of Envoy's, though the API did the work: without usage, so that the estimate stays spent."""
    path = rig.path(answering(json.dumps(ANSWER | {"pad": "a" * (JSON_LIMIT + 100_000)}).encode()))

    got = await rig.post(path, CHAT)

    entry = await rig.sidecar.entry(path)
    assert (got.status, json.loads(got.body)["error"]["code"]) == (500, "gateway_error")
    assert entry.response.response_code_details == "response_payload_too_large"
    assert metadata(entry, "authz.usage") == {}


@pytest.mark.parametrize("size", [READ_LIMIT + 1, JSON_LIMIT + 100_000])
async def test_a_large_request_passes_unread(rig: Rig, size: int) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode()))
    question = sized(size)

    await rig.post(path, question)

    entry = await rig.sidecar.entry(path)
    assert (rig.api.received[path].body == question) is True
    assert (metadata(entry, "authz.request"), metadata(entry, "authz.usage")) == ({}, USAGE)


async def test_a_request_of_the_largest_size_is_read(rig: Rig) -> None:
    assert await rig.asked(sized(READ_LIMIT)) == {"model": "asked", "max_tokens": 7.0}


async def test_a_request_that_does_not_tell_its_size_passes_unread(rig: Rig) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode()))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n".encode())
    writer.write(b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(sized(99)), sized(99)))

    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")

    entry = await rig.sidecar.entry(path)
    assert rig.api.received[path].body == sized(99)
    assert (metadata(entry, "authz.request"), metadata(entry, "authz.usage")) == ({}, USAGE)
    writer.transport.abort()


async def test_of_a_stranger_no_large_body_is_awaited(rig: Rig) -> None:
    """The check is made when a single byte of the body is there."""
    path = rig.path(answering(b"{}"))
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nauthorization: {DENIED}\r\n"
    writer.write(f"{head}content-length: {READ_LIMIT + 1}\r\n\r\n{{".encode())

    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 401 ")

    assert path not in rig.api.received
    writer.transport.abort()


@pytest.mark.parametrize(("method", "under"), [("GET", "/v1"), ("POST", "/other"), ("PUT", "/v1")])
async def test_what_is_not_metered_has_no_limit_and_is_not_read(rig: Rig, method: str, under: str) -> None:
    answer = json.dumps(ANSWER | {"pad": "a" * (JSON_LIMIT + 100_000)}).encode()
    path = rig.path(answering(answer), under)

    got = await rig.post(path, CHAT | {"pad": "q" * MB}, method)

    assert (got.status, got.body == answer) == (200, True)
    entry = await rig.sidecar.entry(path)
    assert (metadata(entry, "authz.usage"), metadata(entry, "authz.request")) == ({}, {})
    assert len(rig.sidecar.checks[path]) == 1


async def test_streams_have_no_limit(rig: Rig) -> None:
    path = rig.path(streaming([*events(*[{"model": "m", "pad": "x" * MB}] * 18), *OPENAI_CHAT]))

    got = await rig.post(path, CHAT)

    assert len(got.body) > JSON_LIMIT
    assert await rig.usage(path) == USAGE


# What the check is told


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(CHAT, {"model": "asked", "max_tokens": 7.0}, id="chat"),
        pytest.param(
            {"max_completion_tokens": 5, "n": 4, "stream": True, "stream_options": {"include_usage": True}},
            {"max_completion_tokens": 5.0, "n": 4.0, "stream": True},
            id="newer chat",
        ),
        pytest.param(
            {"max_output_tokens": 5, "stream": False, "stream_options": {"include_usage": False}},
            {"max_output_tokens": 5.0, "stream": False},
            id="responses",
        ),
        pytest.param(
            b'{"model":"a","model":"b","max_tokens":1,"max_tokens":99}', {"model": "b", "max_tokens": 99.0}, id="twice"
        ),
        pytest.param({"model": 5, "max_tokens": "12"}, {"model": "5", "max_tokens": 12.0}, id="the other's type"),
        pytest.param(b'{"max_tokens":-1e300}', {"max_tokens": -1e300}, id="huge and negative"),
        pytest.param(b'{"max_tokens":99999999999999999999}', {"max_tokens": 1e20}, id="more than 64 bits"),
        pytest.param({"max_tokens": "inf"}, {"max_tokens": math.inf}, id="infinite"),
        pytest.param({"max_tokens": True, "n": 0.5}, {"max_tokens": 1.0, "n": 0.5}, id="truth and fractions"),
        pytest.param({"model": {"a": 1}, "max_tokens": [1], "n": None}, {}, id="neither text nor number"),
        pytest.param({"stream": "yes", "stream_options": "no"}, {"stream": "yes"}, id="text for truth"),
        pytest.param({"model": ""}, {}, id="an empty model"),
        pytest.param(
            b'{"model":"' + b"m" * 9000 + b'","max_tokens":5}', {"max_tokens": 5.0}, id="a model of 9,000 characters"
        ),
        pytest.param(b'{"max_tokens":NaN}', {}, id="NaN is not JSON"),
        pytest.param(b'\xef\xbb\xbf{"model":"a"}', {"model": "a"}, id="BOM"),
        pytest.param(b'{"model":"\xff"}', {}, id="not UTF-8"),
        pytest.param(b'{"x":' + b"[" * 5000 + b"]" * 5000 + b',"max_tokens":5}', {}, id="deep"),
        pytest.param(b'{"model":', {}, id="not JSON"),
        pytest.param(b"[]", {}, id="an array"),
        pytest.param(b"", {}, id="nothing"),
    ],
)
async def test_what_the_check_is_told_of_a_request(rig: Rig, body: object, told: dict[str, object]) -> None:
    """And never the body."""
    assert await rig.asked(body) == told


async def test_text_for_not_a_number(rig: Rig) -> None:
    """It does reach the check: whoever counts with it must look."""
    told: Any = await rig.asked({"max_tokens": "nan"})

    assert math.isnan(told["max_tokens"])


# Entries


async def test_one_entry_a_request_with_all_that_is_known(rig: Rig) -> None:
    path = rig.path(answering(json.dumps(ANSWER).encode()))
    other = rig.path(answering(b"{}"))

    await rig.post(
        f"{path}?a=1",
        CHAT,
        authorization="Bearer s3cret-a",
        cookie="s3cret-b",
        x_api_key="s3cret-c",
        x_secret="s3cret-d",
    )
    await rig.sidecar.entry(path)
    await rig.post(other, CHAT)
    await rig.sidecar.entry(other)  # entries come in order

    (entry,) = rig.sidecar.entries[path]
    decided = metadata(entry, "envoy.filters.http.ext_authz")
    assert decided["estimate"] == 123
    assert decided["settlement"] == SEALED
    assert str(decided["decision_id"]).startswith("decision-")
    assert metadata(entry, "authz.request") == {"model": "asked", "max_tokens": 7.0}
    assert metadata(entry, "authz.usage") == USAGE
    assert entry.common_properties.access_log_type == 6  # DownstreamEnd
    assert "s3cret" not in str(entry)
    assert entry.request.path.endswith("?a=1")  # whoever keeps it must cut the query


async def test_no_entry_of_a_burst_is_lost(rig: Rig) -> None:
    """With Envoy's own buffers some would be: it drops what it cannot send at once."""
    path = rig.path(answering(json.dumps(ANSWER).encode()))

    for _ in range(5):
        await asyncio.gather(*(rig.post(path, CHAT, user_agent="u" * 4000) for _ in range(100)))

    await rig.sidecar.entry(path, 500)
    assert len(rig.sidecar.entries[path]) == 500


async def test_a_refusals_entry_has_its_decision(rig: Rig) -> None:
    path = rig.path(answering(b"{}"))

    assert (await rig.post(path, CHAT, authorization=DENIED)).status == 401

    entry = await rig.sidecar.entry(path)
    assert "decision_id" in metadata(entry, "envoy.filters.http.ext_authz")
    assert entry.response.response_code_details == "ext_authz_denied"
    assert "denied" not in str(entry.request)


async def test_a_client_that_leaves(rig: Rig) -> None:
    """What was seen so far is told; and nothing of the output, which nobody knows."""
    path = rig.path(LockStep([ANTHROPIC[0], *ANTHROPIC[1:]]))
    async with rig.opened(path, CHAT) as answer:
        assert await anext(answer.aiter_raw()) == ANTHROPIC[0]

    entry = await rig.sidecar.entry(path)

    assert metadata(entry, "authz.usage") == {"model": "m", "input_tokens": 3.0}
    assert flags(entry) == ["downstream_connection_termination"]
    assert "decision_id" in metadata(entry, "envoy.filters.http.ext_authz")


async def test_an_api_that_goes_away(rig: Rig) -> None:
    stepwise = LockStep(ANTHROPIC[:2], cut=True)
    path = rig.path(stepwise)
    with pytest.raises(Exception, match="peer closed"):
        async with rig.opened(path, CHAT) as answer:
            await stepwise.read(answer)

    entry = await rig.sidecar.entry(path)

    assert metadata(entry, "authz.usage") == {"model": "m", "input_tokens": 3.0}
    assert flags(entry) == ["upstream_protocol_error"]  # it ended within a chunked body


async def test_the_log_on_standard_output_has_what_it_takes_to_book_by_hand(rig: Rig) -> None:
    """And not the ticket."""
    path = rig.path(answering(json.dumps(ANSWER).encode()))
    await rig.post(f"{path}?api_key=s3cret", CHAT)
    entry = await rig.sidecar.entry(path)

    told = json.loads(await asyncio.to_thread(rig.logged, path))
    assert told["decision_id"] == metadata(entry, "envoy.filters.http.ext_authz")["decision_id"]
    assert told["estimate"] == 123
    assert told["usage"] == {"input_tokens": 3, "output_tokens": 30}  # a model is what a client says
    text = rig.log.read_text()
    assert SEALED not in text
    assert "s3cret" not in text


# An Envoy that has no sse_to_metadata


FOLDER: Final = Path(__file__).parents[2] / "deploy" / "envoy"


def drop_sse(bootstrap: Any) -> None:
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"] = [each for each in manager["http_filters"] if each["name"] != "authz.usage_sse"]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        route.get("typed_per_filter_config", {}).pop("authz.usage_sse", None)


async def test_the_variant_is_that_of_the_bootstrap() -> None:
    bootstrap, variant = ((FOLDER / f"{name}.yaml").read_text() for name in ("envoy", "envoy-without-sse"))
    expected = yaml.safe_load(bootstrap)
    drop_sse(expected)

    assert runpy.run_path(str(FOLDER / "without_sse.py"))["without_sse"](bootstrap) == variant, "make envoy-variant"
    assert yaml.safe_load(variant) == expected


async def test_without_the_filter_streams_pass_and_tell_nothing(tmp_path: Path) -> None:
    async with Rig(tmp_path, drop_sse) as rig:
        answer, stream = rig.path(answering(json.dumps(ANSWER).encode())), rig.path(streaming(OPENAI_CHAT))

        assert (await rig.post(answer, CHAT)).status == 200
        assert (await rig.post(stream, CHAT)).body == b"".join(OPENAI_CHAT)

        assert await rig.usage(answer) == USAGE
        assert await rig.usage(stream) == {}
        assert metadata(await rig.sidecar.entry(stream), "authz.request") == {"model": "asked", "max_tokens": 7.0}


# Another API's usage, as the page tells


def with_the_rules_of_the_page(bootstrap: Any) -> None:
    page = (FOLDER.parents[1] / "docs" / "envoy.md").read_text()
    (block,) = (each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "usageMetadata" in each)
    rules = yaml.safe_load(block)
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    filters = {each["name"]: each["typed_config"] for each in manager["http_filters"]}
    filters["authz.usage_json"]["response_rules"]["rules"] += rules
    parser = filters["authz.usage_sse"]["response_rules"]["content_parser"]
    parser["typed_config"]["rules"] += [{"rule": rule} for rule in rules]


async def test_the_pages_rules_for_another_api(tmp_path: Path) -> None:
    gemini = {"modelVersion": "m", "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 30}}
    async with Rig(tmp_path, with_the_rules_of_the_page) as rig:
        for script in (answering(json.dumps(gemini).encode()), streaming(events(gemini)), streaming(ANTHROPIC)):
            path = rig.path(script)
            await rig.post(path, CHAT)
            assert await rig.usage(path) == ANTHROPIC_USAGE
