"""
The API behind the demo: OpenAI's endpoints (below `/inference/v1` too), Anthropic's messages, the collections of a
voice API, and below `/api/v1` those of an inference server, answered without a model.

    python -m authz.demo.upstream --port N [--host 127.0.0.1]

It protects nothing and believes everybody: that is what Envoy and authz in front of it are for. Nothing is kept and
nothing is random, so the same request has the same answer. `usage` is counted by one rule: **a token is a word** (what
lies between white space) of the text that went in or out; embeddings given as token arrays count their tokens, and a
recording is one token for every started kilobyte.

`/v1/echo` answers what this side saw of a request: identity headers arrive here, credentials do not.
"""

import argparse
import asyncio
import base64
import contextlib
import email
import hashlib
import json
import logging
import math
import socket
import struct
import sys
import traceback
from collections.abc import AsyncIterator, Sequence
from email.message import Message as Part
from typing import Annotated, Final, Literal, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send


MODELS: Final = ("mock-chat", "mock-embedding", "mock-transcribe")  # those listed; every other name is answered as well
COLLECTIONS: Final = ("agents", "analytics", "calls", "campaigns", "transcriptions")
SERVED: Final = ("audit-logs", "cache", "config", "metrics", "models", "queue", "users")  # below /api/v1
CREATED: Final = 1_700_000_000
MAX_BODY: Final = 10 * 1024 * 1024
MAX_UPLOAD: Final = 25 * 1024 * 1024
MAX_WORDS: Final = 100  # of the question that are repeated
PAUSE_SECONDS: Final = 0.02  # between two words of a stream
DIMENSIONS: Final = 8


class Refused(Exception):  # noqa: N818 - reads as what happened
    """An answer in OpenAI's error format."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)  # "5" is not 5; what is not listed is ignored


class ContentPart(_Strict):
    type: str
    text: str = ""  # images and the like have none


class ChatMessage(_Strict):
    role: str
    content: str | list[ContentPart] | None = None

    @property
    def text(self) -> str:
        return _text(self.content)


def _text(content: str | list[ContentPart] | None) -> str:
    match content:
        case str(text):
            return text
        case None:
            return ""
        case parts:
            return " ".join(part.text for part in parts)


class StreamOptions(_Strict):
    include_usage: bool = False


class ChatRequest(_Strict):
    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name wins
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class MessagesRequest(_Strict):
    """Anthropic's."""

    model: str = Field(min_length=1)
    messages: list[ChatMessage] = Field(min_length=1)
    system: str | list[ContentPart] | None = None
    max_tokens: int = Field(ge=1)
    stream: bool = False


_Tokens = Annotated[list[int], Field(min_length=1)]
_Text = Annotated[str, Field(min_length=1)]


class InferenceRequest(_Strict):
    """Of the server below `/api/v1`."""

    model: str = Field(min_length=1)
    prompt: str
    max_tokens: int | None = Field(default=None, ge=1)
    stream: bool = False


class EmbeddingRequest(_Strict):
    model: str = Field(min_length=1)
    input: _Text | _Tokens | Annotated[list[_Text | _Tokens], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"

    @property
    def items(self) -> list[str | list[int]]:
        """What each gets a vector: texts and token arrays. Bare numbers are one array."""
        items: list[str | list[int]] = []
        tokens: list[int] = []
        for item in [self.input] if isinstance(self.input, str) else self.input:
            if isinstance(item, int):
                tokens.append(item)
            else:
                items.append(item)
        return [*items, tokens] if tokens else items


_Body = TypeVar("_Body", bound=_Strict)


async def chat(request: Request) -> Response:
    asked = await _parsed(request, ChatRequest)
    answer, cut = _answer(asked.messages, asked.max_completion_tokens or asked.max_tokens)
    reason = "length" if cut else "stop"
    spent = sum(_words(message.text) for message in asked.messages)
    usage = {"prompt_tokens": spent, "completion_tokens": len(answer), "total_tokens": spent + len(answer)}
    head = {"id": "chatcmpl-" + _digest(asked.model, *answer).hex()[:24], "created": CREATED, "model": asked.model}
    if asked.stream:
        wanted = usage if asked.stream_options is not None and asked.stream_options.include_usage else None
        return StreamingResponse(
            _chunks(head, answer, reason, wanted), media_type="text/event-stream", headers={"cache-control": "no-cache"}
        )
    message = {"role": "assistant", "content": " ".join(answer), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return _json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def _answer(messages: list[ChatMessage], allowed: int | None) -> tuple[list[str], bool]:
    """Its words, and whether more would have come."""
    question = next((message.text for message in reversed(messages) if message.role == "user"), "")
    answer = ["You", "said:", *question.split()[:MAX_WORDS]]
    return answer[:allowed], allowed is not None and len(answer) > allowed


async def _chunks(
    head: dict[str, object], answer: list[str], reason: str, usage: dict[str, int] | None
) -> AsyncIterator[str]:
    """One word a chunk; then why it ended; then, where asked for, what it cost."""

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**head, "object": "chat.completion.chunk", "choices": [choice], "usage": None})

    yield chunk({"role": "assistant", "content": ""})
    for place, word in enumerate(answer):
        yield chunk({"content": word if place == 0 else " " + word})
        await asyncio.sleep(PAUSE_SECONDS)
    yield chunk({}, reason)
    if usage is not None:
        yield _event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


async def messages(request: Request) -> Response:
    asked = await _parsed(request, MessagesRequest)
    answer, cut = _answer(asked.messages, asked.max_tokens)
    reason = "max_tokens" if cut else "end_turn"
    spent = _words(_text(asked.system)) + sum(_words(message.text) for message in asked.messages)
    identity = "msg_" + _digest(asked.model, *answer).hex()[:24]
    head: dict[str, object] = {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "stop_sequence": None,
    }
    if asked.stream:
        return StreamingResponse(
            _message_events(head, answer, reason, spent),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache"},
        )
    content = [{"type": "text", "text": " ".join(answer)}]
    usage = {"input_tokens": spent, "output_tokens": len(answer)}
    return _json({**head, "content": content, "stop_reason": reason, "usage": usage})


async def _message_events(head: dict[str, object], answer: list[str], reason: str, spent: int) -> AsyncIterator[str]:
    """What went in is told at the start, what came out at the end: the 1 of the start counts nothing."""
    usage = {"input_tokens": spent, "output_tokens": 1}
    yield _typed("message_start", message={**head, "content": [], "stop_reason": None, "usage": usage})
    yield _typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for place, word in enumerate(answer):
        delta = {"type": "text_delta", "text": word if place == 0 else " " + word}
        yield _typed("content_block_delta", index=0, delta=delta)
        await asyncio.sleep(PAUSE_SECONDS)
    yield _typed("content_block_stop", index=0)
    ended = {"stop_reason": reason, "stop_sequence": None}
    yield _typed("message_delta", delta=ended, usage={"output_tokens": len(answer)})
    yield _typed("message_stop")


async def inference(request: Request) -> Response:
    asked = await _parsed(request, InferenceRequest)
    answer, _ = _answer([ChatMessage(role="user", content=asked.prompt)], asked.max_tokens)
    spent = _words(asked.prompt)
    usage = {"prompt_tokens": spent, "completion_tokens": len(answer), "total_tokens": spent + len(answer)}
    if asked.stream or request.scope["path"].endswith("/stream"):
        return StreamingResponse(_inference_events(asked.model, answer, usage), media_type="text/event-stream")
    return _json({"model": asked.model, "output": " ".join(answer), "usage": usage})


async def _inference_events(model: str, answer: list[str], usage: dict[str, int]) -> AsyncIterator[str]:
    for word in answer:
        yield _event({"model": model, "token": word})
        await asyncio.sleep(PAUSE_SECONDS)
    yield _event({"model": model, "done": True, "usage": usage})


async def embeddings(request: Request) -> Response:
    asked = await _parsed(request, EmbeddingRequest)
    spent = sum(_words(item) if isinstance(item, str) else len(item) for item in asked.items)
    data = [
        {"object": "embedding", "index": place, "embedding": _vector(asked.model, item, asked.encoding_format)}
        for place, item in enumerate(asked.items)
    ]
    usage = {"prompt_tokens": spent, "total_tokens": spent}
    return _json({"object": "list", "data": data, "model": asked.model, "usage": usage})


def _vector(model: str, item: str | list[int], encoding: str) -> list[float] | str:
    """A direction that the digest of the input gives, of length 1."""
    raw = [byte - 127.5 for byte in _digest(model, json.dumps(item))[:DIMENSIONS]]
    length = math.hypot(*raw)
    packed = struct.pack(f"<{DIMENSIONS}f", *(value / length for value in raw))
    return base64.b64encode(packed).decode() if encoding == "base64" else list(struct.unpack(f"<{DIMENSIONS}f", packed))


async def transcriptions(request: Request) -> Response:
    content_type = request.headers.get("content-type", "")
    body = await _body(request, MAX_UPLOAD)
    fields = await asyncio.to_thread(_form, content_type, body)  # 25 MB take a while: not on the event loop
    for name in ("file", "model"):
        if not fields.get(name):
            raise Refused(400, f"The form has no {name}, or an empty one.", param=name)
    form = fields.get("response_format", b"json")
    if form not in (b"json", b"text"):
        raise Refused(400, "response_format is either json or text here.", param="response_format")
    text = f"A recording of {len(fields['file'])} bytes."
    if form == b"text":
        return PlainTextResponse(text + "\n")
    heard, read, said = -(-len(fields["file"]) // 1000), _words(_utf8(fields.get("prompt", b""))), _words(text)
    usage = {
        "type": "tokens",
        "input_tokens": heard + read,
        "input_token_details": {"audio_tokens": heard, "text_tokens": read},
        "output_tokens": said,
        "total_tokens": heard + read + said,
    }
    return _json({"text": text, "model": _utf8(fields["model"]), "usage": usage})


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form; read by the standard library's e-mail parser, for this is what a form is."""
    whole = email.message_from_bytes(b"content-type: " + content_type.encode("latin-1") + b"\r\n\r\n" + body)
    parts = whole.get_payload()
    if whole.get_content_type() != "multipart/form-data" or not isinstance(parts, list):
        raise Refused(400, "The body is not a multipart/form-data form.")
    fields: dict[str, bytes] = {}
    for part in parts:
        if isinstance(part, Part):
            name, payload = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            if isinstance(name, str) and isinstance(payload, bytes):
                fields.setdefault(name, payload)
    return fields


async def models(_: Request) -> Response:
    return _json({"object": "list", "data": [_model(name) for name in MODELS]})


async def model(request: Request) -> Response:
    name = str(request.path_params["name"])
    if name not in MODELS:
        raise Refused(404, "There is no model of this name.", param="model", code="model_not_found")
    if request.method == "DELETE":  # said, not done: the next one who asks finds it again
        return _json({"id": name, "object": "model", "deleted": True})
    return _json(_model(name))


async def resource(request: Request) -> Response:
    """A collection, or one thing in it: nothing is kept, what was sent is said again."""
    collection = request.scope["path"].removeprefix("/api").split("/")[2]
    name = str(request.path_params.get("name", ""))
    try:
        sent = json.loads(await _body(request, MAX_BODY) or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON.") from None
    if not isinstance(sent, dict):
        raise Refused(400, "The body is not an object.")
    if request.method == "GET" and not name:
        return _json({"object": "list", "data": []})
    made = name or f"{collection}_{_digest(json.dumps(sent)).hex()[:12]}"
    return _json({"id": made, "object": collection, "deleted": request.method == "DELETE", **sent})


async def echo(request: Request) -> Response:
    await _body(request, MAX_BODY)
    seen: dict[str, str] = {}
    for name, value in request.headers.items():
        seen[name] = f"{seen[name]}, {value}" if name in seen else value
    path, query = (bytes(request.scope[part]).decode("latin-1") for part in ("raw_path", "query_string"))
    return _json({"method": request.method, "path": f"{path}?{query}" if query else path, "headers": seen})


async def healthz(_: Request) -> Response:
    return PlainTextResponse("ok")


async def _body(request: Request, limit: int) -> bytes:
    """
    The whole body, of which no more than *limit* is kept in memory.

    What is over it is read all the same: an answer that is sent while a body still comes gets lost when the connection
    is then reset.
    """
    body, size = bytearray(), 0
    async for piece in request.stream():
        size += len(piece)
        if size <= limit:
            body += piece
    if size > limit:
        raise Refused(413, f"The body is larger than {limit // 1024 // 1024} MB.", code="body_too_large")
    return bytes(body)


async def _parsed(request: Request, shape: type[_Body]) -> _Body:
    try:
        return shape.model_validate_json(await _body(request, MAX_BODY))
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else None  # none: not JSON at all
        raise Refused(400, f"{field}: {first['msg']}" if field else first["msg"], param=field) from None


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "authz-demo"}


def _words(text: str) -> int:
    return len(text.split())


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _utf8(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _event(content: dict[str, object]) -> str:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n"


def _typed(name: str, **content: object) -> str:
    return f"event: {name}\n" + _event({"type": name, **content})


def _json(content: dict[str, object], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, separators=(",", ":"))
    return Response(body, status, headers=headers, media_type="application/json")


def _error(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _json({"error": {"message": message, "type": kind, "param": param, "code": code}}, status, headers)


async def _failed(request: Request, error: Exception) -> Response:
    match error:
        case Refused():
            return _error(error.status, str(error), param=error.param, code=error.code)
        case HTTPException(status_code=404):
            return _error(404, f"Unknown request URL: {request.method} {request.scope['path']}.", code="unknown_url")
        case HTTPException():  # a method that a path does not have
            return _error(error.status_code, error.detail, headers=dict(error.headers or {}))
        case _:
            traceback.print_exception(error)  # a bug of this file; the server's own log is off
            return _error(500, "The mock has a bug; its traceback is on standard error.")


class OwnRateLimit:
    """Puts a rate limit of the API's own on every answer, so that one can see authz's take its place."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_limit(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-ratelimit-limit"] = "999999"
            await send(message)

        await self._app(scope, receive, send_with_limit)


def _inference(base: str) -> list[Route]:
    return [
        Route(f"{base}/chat/completions", chat, methods=["POST"]),
        Route(f"{base}/messages", messages, methods=["POST"]),
        Route(f"{base}/embeddings", embeddings, methods=["POST"]),
        Route(f"{base}/audio/transcriptions", transcriptions, methods=["POST"]),
        Route(f"{base}/models", models),
        Route(f"{base}/models/{{name:path}}", model, methods=["GET", "DELETE"]),
        Route(f"{base}/echo", echo, methods=["GET", "POST"]),
    ]


def create_app() -> ASGIApp:
    app = Starlette(
        routes=[
            Route("/healthz", healthz),
            *_inference("/v1"),
            *_inference("/inference/v1"),
            *(Route(f"/api/v1/inference{name}", inference, methods=["POST"]) for name in ("", "/stream")),
            Route("/api/v1/models/echo", echo),
            *(
                Route(f"{base}/{collection}{name}", resource, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
                for base, collections in (("/v1", COLLECTIONS), ("/api/v1", SERVED))
                for collection in collections
                for name in ("", "/{name:path}")
            ),
        ],
        exception_handlers=dict.fromkeys((Refused, HTTPException, Exception), _failed),
    )
    app.router.redirect_slashes = False
    return OwnRateLimit(app)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m authz.demo.upstream", description="A mock of OpenAI's API.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, required=True, help="the port to listen on")
    options = parser.parse_args(argv)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except (OSError, OverflowError) as failed:
        why = ((failed.strerror if isinstance(failed, OSError) else None) or str(failed)).split(" (")[0].rstrip(".")
        sentence = f"upstream: port {options.port} of {options.host} cannot be had ({why}); --port says another"
        print(sentence, file=sys.stderr)
        return 1
    # Accepted connections inherit it. asyncio sets it only on sockets that name their protocol, which these do not, and
    # without it the first words of a stream wait 40 ms for an acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        create_app(),
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=0,  # a stream that is still open does not hold up the end
    )
    with contextlib.suppress(KeyboardInterrupt):  # the server hands Ctrl-C on when it has stopped
        uvicorn.Server(config).run(sockets=[listening])
    return 0


if __name__ == "__main__":
    sys.exit(main())
