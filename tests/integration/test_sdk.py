"""The official OpenAI SDK through Envoy: exceptions with our message, streams, embeddings, audio."""

import io
from collections.abc import Iterator

import openai
import pytest

from authz.admin.keys import NewKey
from authz.core.bucket import Limit
from authz.demo.stack import Stack


pytestmark = pytest.mark.xdist_group("stack")


def client(stack: Stack, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=retries)


@pytest.fixture
def writer(stack: Stack) -> Iterator[openai.OpenAI]:
    with client(stack, stack.keys["read-write"]) as made:
        yield made


def test_chat_and_stream(writer: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello!"}]

    whole = writer.chat.completions.create(model="mock-chat", messages=messages)  # type: ignore[arg-type]
    stream = writer.chat.completions.create(  # type: ignore[call-overload]
        model="mock-chat", messages=messages, stream=True, stream_options={"include_usage": True}
    )
    events = list(stream)

    assert whole.usage is not None
    assert whole.usage.total_tokens > 0
    said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert said == whole.choices[0].message.content
    assert events[-1].usage.total_tokens == whole.usage.total_tokens


def test_embeddings_audio_models(writer: openai.OpenAI) -> None:
    assert writer.embeddings.create(model="mock-embedding", input="Hello!").usage.total_tokens > 0
    audio = ("speech.wav", io.BytesIO(b"RIFF" + bytes(2000)))
    assert writer.audio.transcriptions.create(model="mock-transcribe", file=audio).text
    assert [model.id for model in writer.models.list()]


def test_a_bad_key_is_an_authentication_error(stack: Stack) -> None:
    with client(stack, "sk-live-nonsense") as made, pytest.raises(openai.AuthenticationError) as error:
        made.models.list()

    assert "The API key is malformed" in str(error.value)
    assert error.value.code == "invalid_api_key"


def test_a_missing_scope_is_a_permission_error(stack: Stack) -> None:
    with client(stack, stack.keys["read-only"]) as made, pytest.raises(openai.PermissionDeniedError) as error:
        made.embeddings.create(model="mock-embedding", input="Hello!")

    assert "required: read-write; held: read-only" in str(error.value)


def test_a_limit_is_a_rate_limit_error_and_retries_wait_for_it(stack: Stack) -> None:
    """Without retries the error is shown; with them the SDK waits as it is told, and gets in."""
    key = stack.create_key(NewKey("test", scopes=("read-only",), limits={"requests": Limit(2, 2)})).token

    with client(stack, key) as made:
        made.models.list()
        made.models.list()
        with pytest.raises(openai.RateLimitError) as error:
            made.models.list()
    assert "2 requests in 2 s" in str(error.value)
    with client(stack, key, retries=2) as patient:
        assert list(patient.models.list())
