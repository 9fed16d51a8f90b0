"""The demo's mock of OpenAI's API, met through HTTP and through OpenAI's own client."""

import base64
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from authz.demo import upstream


QUESTION = {
    "model": "any-name",
    "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one two"}],
}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(upstream.create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://upstream") as client:
        yield client


@pytest.fixture
def sdk(http: httpx.AsyncClient) -> openai.AsyncOpenAI:
    client: Any = http  # openai 3 takes httpx's client, but is typed for httpx2's alone
    return openai.AsyncOpenAI(api_key="unused", base_url="http://upstream/v1", http_client=client, max_retries=0)


async def test_chat_echoes_the_last_question_and_counts_words(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/chat/completions", json=QUESTION)
    content = answer.json()
    assert content["model"] == "any-name"
    assert content["choices"][0]["message"]["content"] == "You said: one two"
    assert content["choices"][0]["finish_reason"] == "stop"
    assert content["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert (await http.post("/v1/chat/completions", json=QUESTION)).content == answer.content


@pytest.mark.parametrize(
    "limit", [{"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}]
)
async def test_chat_is_cut_at_the_maximum(http: httpx.AsyncClient, limit: dict[str, int]) -> None:
    content = (await http.post("/v1/chat/completions", json=QUESTION | limit)).json()
    assert content["choices"][0]["message"]["content"] == "You said: one"
    assert content["choices"][0]["finish_reason"] == "length"
    assert content["usage"]["completion_tokens"] == 3


async def test_chat_reads_the_text_among_parts(http: httpx.AsyncClient) -> None:
    parts = [
        {"type": "text", "text": "look at"},
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "text", "text": "this"},
    ]
    content = (
        await http.post("/v1/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": parts}]})
    ).json()
    assert content["choices"][0]["message"]["content"] == "You said: look at this"
    assert content["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("include_usage", [True, False])
async def test_stream_is_one_word_a_chunk(http: httpx.AsyncClient, include_usage: bool) -> None:
    asked = QUESTION | {"stream": True, "stream_options": {"include_usage": include_usage}}
    answer = await http.post("/v1/chat/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks: list[dict[str, Any]] = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    if include_usage:
        last = chunks.pop()
        assert last["choices"] == []
        assert last["usage"] == {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks] == [
        "",
        "You",
        " said:",
        " one",
        " two",
        None,
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]


MESSAGES: dict[str, object] = {
    "model": "any-name",
    "max_tokens": 9,
    "system": [{"type": "text", "text": "be brief"}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "one two"}]}],
}


@pytest.mark.parametrize(
    ("limit", "text", "reason"), [(9, "You said: one two", "end_turn"), (3, "You said: one", "max_tokens")]
)
async def test_messages_answer_as_anthropics_do(http: httpx.AsyncClient, limit: int, text: str, reason: str) -> None:
    content = (await http.post("/v1/messages", json=MESSAGES | {"max_tokens": limit})).json()
    assert (content["type"], content["role"], content["model"]) == ("message", "assistant", "any-name")
    assert content["content"] == [{"type": "text", "text": text}]
    assert content["stop_reason"] == reason
    assert content["usage"] == {"input_tokens": 4, "output_tokens": len(text.split())}


async def test_streamed_messages_tell_what_came_out_at_the_end_alone(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/messages", json=MESSAGES | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    named = [event.split("\n") for event in answer.text.strip().split("\n\n")]
    contents: list[dict[str, Any]] = [json.loads(data.removeprefix("data: ")) for _, data in named]
    assert [f"event: {content['type']}" for content in contents] == [name for name, _ in named]
    assert [content["type"] for content in contents] == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 4,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert contents[0]["message"]["model"] == "any-name"
    assert contents[0]["message"]["usage"] == {"input_tokens": 4, "output_tokens": 1}
    assert "".join(content["delta"]["text"] for content in contents[2:6]) == "You said: one two"
    assert contents[-2]["delta"]["stop_reason"] == "end_turn"
    assert contents[-2]["usage"] == {"output_tokens": 4}


@pytest.mark.parametrize(
    ("given", "vectors", "tokens"), [("a b", 1, 2), (["a b", "c"], 2, 3), ([5, 6, 7], 1, 3), ([[5, 6], [7]], 2, 3)]
)
async def test_embeddings_take_every_form_of_input(
    http: httpx.AsyncClient, given: object, vectors: int, tokens: int
) -> None:
    as_floats = (await http.post("/v1/embeddings", json={"model": "m", "input": given})).json()
    as_base64 = (
        await http.post("/v1/embeddings", json={"model": "m", "input": given, "encoding_format": "base64"})
    ).json()
    assert as_floats["usage"] == as_base64["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    assert [item["index"] for item in as_floats["data"]] == list(range(vectors))
    for plain, packed in zip(as_floats["data"], as_base64["data"], strict=True):
        assert plain["embedding"] == list(struct.unpack("<8f", base64.b64decode(packed["embedding"])))
        assert sum(value * value for value in plain["embedding"]) == pytest.approx(1)


async def test_openais_client_reads_all_of_it(sdk: openai.AsyncOpenAI) -> None:
    stream = await sdk.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "You said: hi"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 4

    assert len((await sdk.embeddings.create(model="m", input="hi")).data[0].embedding) == 8

    recording = bytes(range(256)) * 5  # every byte, line breaks too
    heard = await sdk.audio.transcriptions.create(model="m", file=("a.wav", recording), prompt="two words")
    assert heard.text == "A recording of 1280 bytes."
    assert heard.usage is not None
    assert heard.usage.to_dict() == {
        "type": "tokens",
        "input_tokens": 4,
        "input_token_details": {"audio_tokens": 2, "text_tokens": 2},
        "output_tokens": 5,
        "total_tokens": 9,
    }

    names = [model.id async for model in sdk.models.list()]
    assert (await sdk.models.retrieve(names[0])).id == names[0]
    assert (await sdk.models.delete(names[0])).deleted


async def test_echo_shows_what_arrived(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/echo?a=%20", headers=[("x-one", "1"), ("x-one", "2")], content=b"body")
    seen = answer.json()
    assert (seen["method"], seen["path"], seen["headers"]["x-one"]) == ("POST", "/v1/echo?a=%20", "1, 2")


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/nowhere"])
async def test_every_answer_has_a_rate_limit_of_its_own(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path)).headers.get_list("x-ratelimit-limit") == ["999999"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param", "code"),
    [
        ("POST", "/v1/chat/completions", b"{", 400, None, None),
        ("POST", "/v1/chat/completions", b'{"model":"m","messages":[]}', 400, "messages", None),
        (
            "POST",
            "/v1/chat/completions",
            b'{"model":"m","messages":[{"role":"user"}],"max_tokens":"5"}',
            400,
            "max_tokens",
            None,
        ),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400, None, None),
        ("POST", "/v1/chat/completions", b" " * (upstream.MAX_BODY + 1), 413, None, "body_too_large"),
        ("POST", "/v1/messages", b'{"model":"m","messages":[{"role":"user"}]}', 400, "max_tokens", None),
        ("POST", "/v1/embeddings", b'{"model":"m","input":[]}', 400, "input", None),
        ("POST", "/v1/embeddings", b'{"model":"m","input":["a",5]}', 400, "input", None),
        ("POST", "/v1/audio/transcriptions", b"no form", 400, None, None),
        ("GET", "/v1/models/nobody", b"", 404, "model", "model_not_found"),
        ("GET", "/v1/models/", b"", 404, "model", "model_not_found"),
        ("GET", "/v2", b"", 404, None, "unknown_url"),
        ("POST", "/v1/campaigns", b"[" * 100_000, 400, None, None),
        ("POST", "/v1/campaigns", b"[]", 400, None, None),
        ("GET", "/v1/campaignsx", b"", 404, None, "unknown_url"),
        ("PUT", "/v1/models/mock-chat", b"", 405, None, None),
    ],
)
async def test_errors_take_openais_format(
    http: httpx.AsyncClient, method: str, path: str, body: bytes, status: int, param: str | None, code: str | None
) -> None:
    answer = await http.request(method, path, content=body)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_a_voice_apis_collections_say_again_what_was_sent(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/campaigns")).json() == {"object": "list", "data": []}
    made = (await http.post("/v1/campaigns", json={"name": "Spring", "model": "any-name"})).json()
    assert (made["object"], made["name"], made["model"]) == ("campaigns", "Spring", "any-name")
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        answer = await http.request(method, "/v1/campaigns/campaign_1")
        assert (answer.status_code, answer.json()["id"]) == (200, "campaign_1")
        assert answer.json()["deleted"] is (method == "DELETE")
    assert (await http.post("/v1/calls/outbound", json={"agent_id": "a"})).json()["agent_id"] == "a"


async def test_the_model_api_has_a_second_address(http: httpx.AsyncClient) -> None:
    for path, body in (("chat/completions", QUESTION), ("embeddings", {"model": "m", "input": "x"})):
        first, second = [(await http.post(f"{base}/{path}", json=body)).json() for base in ("/v1", "/inference/v1")]
        assert first == second
        assert first["usage"]["total_tokens"] > 0


def test_a_busy_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert upstream.main(["--port", str(port)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert (
        said.err == f"upstream: port {port} of 127.0.0.1 cannot be had (Address already in use); --port says another\n"
    )
