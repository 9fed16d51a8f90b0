"""Bugs that were: of tokens and of Envoy's door. One test each, named after what was wrong."""

from pathlib import Path
from typing import Any

import pytest
from google.rpc import code_pb2

from authz.adapters.envoy.check import CheckHandler
from authz.adapters.envoy.codec import decode, encode
from authz.adapters.jwt.strict_json import MAX_DEPTH, NotStrictError, load_object
from authz.adapters.logs.silent import Silent
from authz.core.decision import Decision, Deny, Fault, Reason, Refusal
from authz.core.principal import Principal
from authz.core.request import Request
from authz.settings import SettingsError, load_settings
from tests.support.envoy import STYLE, check_request, response
from tests.support.tokens import HEADER, FakeClock, forge, verifier


DEEP = 50


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"a":"' + "]" * DEEP + '","b":' + "[" * DEEP + "]" * DEEP + "}", id="before"),
        pytest.param('{"b":' + '["]",' * DEEP + "0" + "]" * DEEP + "}", id="on each level"),
        pytest.param('{"b":' + '{"}":' * DEEP + "0" + "}" * DEEP + "}", id="in a name on each level"),
        pytest.param('{"a":"\\"' + "]" * DEEP + '","b":' + "[" * DEEP + "]" * DEEP + "}", id="after an escaped quote"),
    ],
)
def test_brackets_within_a_text_do_not_hide_depth(text: str) -> None:
    """JSON nested deeper than MAX_DEPTH is refused, whatever closing brackets its texts hold."""
    assert DEEP > MAX_DEPTH
    with pytest.raises(NotStrictError):
        load_object(text.encode())


def test_a_kid_that_is_null_is_refused() -> None:
    """RFC 7515 §4.1.4: `kid` is a text. PyJWT refuses null; we take it for absent, so we are laxer than PyJWT."""
    answer = verifier().verify(forge(HEADER | {"kid": None}))

    assert isinstance(answer, Refusal)
    assert answer.reason == Reason.BAD_SIGNATURE


def test_header_names_that_differ_in_case_alone_are_repeated_headers() -> None:
    """In `headers`, as in `header_map`, none silently replaces another: both are told, so that a check is ambiguous."""
    request = check_request()
    request.attributes.request.http.headers["Authorization"] = "Bearer one"
    request.attributes.request.http.headers["authorization"] = "Bearer two"

    told = decode(request.SerializeToString()).headers["authorization"]

    assert sorted(told.split(",")) == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("reason", [Reason.ALLOWED, Reason.PUBLIC])
@pytest.mark.parametrize("kind", [Deny, Fault])
def test_encode_is_total(kind: type[Deny | Fault], reason: Reason) -> None:
    """Whatever is not an `Allow` is a refusal, also with a reason that no refusal should have."""
    answer = response(encode(kind(reason), STYLE))

    assert answer.status.code != code_pb2.OK
    assert answer.denied_response.status.code >= 400


class _NoDecision:
    """What a bug might hand back in place of a decision."""


@pytest.mark.parametrize(
    "decision",
    [
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, principal=Principal("j", "", "s", "", ("\ud800",))), id="text beyond UTF-8"
        ),
        pytest.param(Deny(Reason.ALLOWED), id="a reason that no refusal has"),
        pytest.param(_NoDecision(), id="no decision at all"),
        pytest.param(None, id="None"),
    ],
)
async def test_a_fault_in_encoding_is_answered(decision: Any) -> None:
    """Encoding, too, is behind the last resort: no exception reaches the server, where it is an Envoy error."""

    async def decide(_: Request) -> Decision:
        answer: Decision = decision
        return answer

    answer = response(await CheckHandler(decide, STYLE, FakeClock(), Silent())(check_request().SerializeToString()))

    assert answer.status.code != code_pb2.OK
    assert answer.denied_response.status.code == 503


def test_a_public_key_is_no_hmac_secret(tmp_path: Path) -> None:
    """A PEM in the keyring is refused at start: whoever knows the public key could sign (RFC 8725 §3.1)."""
    file = tmp_path / "public.pem"
    file.write_text("-----BEGIN PUBLIC KEY-----\n" + "A" * 64 + "\n-----END PUBLIC KEY-----\n")
    config = tmp_path / "authz.yaml"
    config.write_text(f"keys: {{keyring: [{{id: null, algorithm: HS256, secret: {{file: {file}}}}}]}}\n")

    with pytest.raises(SettingsError):
        load_settings(config, {})
