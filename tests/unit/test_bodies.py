"""What a request asks for, as Envoy has read it in a body that anybody may have written."""

from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.adapters.envoy.codec import decode
from tests.support.envoy import check_request


def asked(values: dict[str, object], path: str = "/v1/chat/completions") -> tuple[int | None, bool]:
    """What it costs at most as far as it is told, and whether that is sure."""
    message: Any = check_request("POST", path)
    message.attributes.metadata_context.filter_metadata["authz.request"].update(values)
    request = decode(message.SerializeToString())
    return request.max_tokens, request.is_max_sure


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"max_tokens": 40}, 40, id="max_tokens"),
        pytest.param({"max_completion_tokens": 41}, 41, id="its newer name"),
        pytest.param({"max_output_tokens": 42}, None, id="a name that no one reads here"),
        pytest.param({"max_output_tokens": 1, "max_tokens": 40}, 40, id="beside one that counts"),
        pytest.param({"max_tokens": 40, "max_completion_tokens": 7}, 40, id="the largest of several"),
        pytest.param({"max_tokens": 40, "n": 3}, 120, id="for each choice"),
        pytest.param({"max_tokens": 40, "n": 128}, 5120, id="for all that one can ask for"),
        pytest.param({"max_tokens": 10**9, "n": 2}, 10**9, id="never above what a bucket can hold"),
        pytest.param({"n": 3}, None, id="choices alone"),
        pytest.param({"model": "m"}, None, id="no maximum"),
    ],
)
def test_max_tokens(values: dict[str, object], expected: int | None) -> None:
    assert asked(values) == (expected, True)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"max_tokens": 40, "n": 129}, 40, id="more choices than there are"),
        pytest.param({"max_tokens": 40, "n": 0}, 40, id="no choices"),
        pytest.param({"max_tokens": 40, "n": "3"}, 40, id="choices as text"),
        pytest.param({"max_tokens": 90_000, "max_completion_tokens": 2e9}, 90_000, id="one of two is nonsense"),
        pytest.param({"max_tokens": "x", "max_completion_tokens": 9}, 9, id="nonsense beside a number"),
        pytest.param({"max_tokens": 0}, None, id="zero"),
        pytest.param({"max_tokens": -5}, None, id="below zero"),
        pytest.param({"max_tokens": -1e300}, None, id="far below"),
        pytest.param({"max_tokens": 1e300}, None, id="beyond any bucket"),
        pytest.param({"max_tokens": float("nan")}, None, id="not a number"),
        pytest.param({"max_tokens": float("inf")}, None, id="infinite"),
        pytest.param({"max_tokens": 1.5}, None, id="a fraction"),
        pytest.param({"max_tokens": "40"}, None, id="text"),
        pytest.param({"max_tokens": True}, None, id="true"),
        pytest.param({"max_tokens": None}, None, id="null"),
    ],
)
def test_nonsense_is_told_as_such_beside_what_is_sure(values: dict[str, object], expected: int | None) -> None:
    assert asked(values) == (expected, False)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/v1/Responses"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [({"max_output_tokens": 42}, 42), ({"max_tokens": 1}, None), ({"max_tokens": 1, "max_output_tokens": 42}, 42)],
)
def test_the_responses_api_has_a_name_of_its_own(path: str, values: dict[str, object], expected: int | None) -> None:
    assert asked(values, path) == (expected, True)


def test_without_metadata_nothing_is_asked() -> None:
    message = check_request("POST", "/v1/chat/completions").SerializeToString()

    assert decode(message).max_tokens is None


def test_metadata_of_other_filters_says_nothing() -> None:
    message: Any = external_auth_pb2.CheckRequest.FromString(check_request().SerializeToString())
    message.attributes.metadata_context.filter_metadata["somebody.else"].update({"max_tokens": 4})

    assert decode(message.SerializeToString()).max_tokens is None
