"""Tokens and e-mail addresses are not logged, wherever a client or a customer put them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.redaction import redacted


JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/v1/models", "/v1/models", id="nothing"),
        pytest.param(f"/v1/sk-live-{JWT}/x", "/v1/[token]/x", id="key in a path"),
        pytest.param(f"/v1/{JWT}", "/v1/[token]", id="bare JWT"),
        pytest.param(f"/v1/{JWT[:24]}", "/v1/[token]", id="the beginning of one"),
        pytest.param(f"/a/{JWT}/b/{JWT}", "/a/[token]/b/[token]", id="two"),
        pytest.param("alice@example.com", "[email]", id="address"),
        pytest.param("/users/alice.b%40example.com/x", "/users/[email]/x", id="escaped address"),
        pytest.param("/v1/password=hunter2/x", "/v1/password=[secret]/x", id="password in a path"),
        pytest.param("/v1/x&PWD%3Dhunter2&y", "/v1/x&PWD%3D[secret]&y", id="escaped password"),
        pytest.param("/v1/api-key:s3cret", "/v1/api-key:[secret]", id="named key"),
        pytest.param("//bob:hunter2@internal/x", "//[email]/x", id="user and password before a host"),
        pytest.param("ada:hunter2@42", "[email]", id="user and password before a number"),
        pytest.param("/v1/joe%40example.com%401", "/v1/[email]", id="an address before an escaped number"),
        pytest.param("joe%40example.com@20240620", "[email]", id="an address before a number"),
        pytest.param("joe@123@example.com", "[email]", id="a number between"),
        pytest.param("@cf/meta/llama-3.1-8b", "@cf/meta/llama-3.1-8b", id="a model's owner"),
        pytest.param("/v1/passwords/reset", "/v1/passwords/reset", id="a path that names passwords"),
        pytest.param("claude-3-5-sonnet@20240620", "claude-3-5-sonnet@20240620", id="a model's version"),
        pytest.param("key_7d0b62f13f0k3x9v1tqm", "key_7d0b62f13f0k3x9v1tqm", id="an id stays"),
    ],
)
def test_redacted(text: str, expected: str) -> None:
    assert redacted(text, 512) == expected


def test_cut_after_redaction() -> None:
    """A token must not survive by being cut in two."""
    assert redacted("x" * 500 + "/" + JWT, 512) == "x" * 500 + "/[token]"


@given(st.text(max_size=50), st.text(max_size=50))
def test_no_token_survives_its_surroundings(before: str, after: str) -> None:
    assert "eyJhbGciOi" not in redacted(before + JWT + after, 512)


@pytest.mark.parametrize(
    "piece",
    ["a", "-", "_a", "eyJ", "eyJa", "a:", ":", "@", "a@", "a%40", "%40", "x%4", "pass", "api_", "-" + "a" * 39, "é"],
)
def test_the_time_that_it_takes_grows_with_the_text(piece: str) -> None:
    """Strangers write paths. Quadratic patterns took a minute for this, which is 10 ms of work."""
    start_s = time.process_time()

    redacted(piece * (64_000 // len(piece)), 512)

    assert time.process_time() - start_s < 5
