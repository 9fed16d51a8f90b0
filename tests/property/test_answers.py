"""Answers from templates say what protobuf says, whatever is granted and whatever is left of it."""

from dataclasses import replace
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given
from hypothesis import strategies as st

from authz.adapters.envoy import codec
from authz.adapters.envoy.answers import Answers
from authz.adapters.envoy.codec import ResponseStyle
from authz.adapters.envoy.ticket import TICKET, Tickets
from authz.core.bucket import MAX_UNITS, Limit, Quota
from authz.core.decision import Allow, Grant, Reason
from authz.core.headers import RATELIMIT_STYLES
from authz.core.principal import Principal
from authz.core.problems import FORMATS
from authz.core.settlement import DecisionId, Hold, Spent


TEXTS = st.text(max_size=300)
WHOLE = st.integers(-(2**51), 2**51)
LIMITS = st.builds(Limit, st.integers(1, MAX_UNITS), st.integers(1, 31 * 86_400))
PRINCIPALS = st.builds(Principal, TEXTS, TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=3).map(tuple))
QUOTAS = st.lists(
    st.builds(
        Quota, st.sampled_from(["default", "team"]), st.sampled_from(["requests", "tokens"]), LIMITS, WHOLE, WHOLE
    ),
    max_size=4,
).map(tuple)
SPENT = st.lists(st.builds(Spent, TEXTS, TEXTS, LIMITS, st.integers(0, MAX_UNITS)), max_size=2).map(tuple)
STYLES = st.builds(
    ResponseStyle,
    format=st.just(FORMATS["openai"]),
    ratelimit_styles=st.lists(st.sampled_from(RATELIMIT_STYLES), max_size=3, unique=True).map(tuple),
    credential_headers=st.sampled_from([(), ("authorization",), ("authorization", "x-api-key")]),
    tickets=st.sampled_from([None, Tickets((b"s" * 32,))]),
)


@st.composite
def alike(draw: st.DrawFn) -> list[Allow]:
    """Decisions by one grant."""
    principal, spent, route = draw(PRINCIPALS), draw(SPENT), draw(TEXTS)
    grant = Grant(principal, spent)
    named = (principal.key_id, principal.prefix, principal.subject, principal.workspace)
    process, partition, store = (
        draw(st.binary(min_size=6, max_size=6)),
        draw(st.integers(0, 63)),
        draw(st.text(max_size=16)),
    )
    is_held, is_recorded = draw(st.booleans()), draw(st.booleans())

    def allow() -> Allow:
        number = DecisionId(process, partition, draw(st.integers(0, 2**64 - 1)), store)
        hold = Hold(number, draw(st.integers(0, 2**53)), *named, allowed=True, recorded=is_recorded, spent=spent)
        told = draw(QUOTAS), draw(st.integers(0, 2**53))
        return Allow(Reason.ALLOWED, route, principal, *told, hold=hold if is_held else None, grant=grant)

    return [allow() for _ in range(draw(st.integers(1, 4)))]


def parsed(answer: bytes) -> Any:
    return external_auth_pb2.CheckResponse.FromString(answer)


@given(alike(), STYLES)
def test_an_answer_from_a_template_says_what_protobuf_says(decisions: list[Allow], style: ResponseStyle) -> None:
    answers = Answers(style)

    for decision in decisions:
        told = parsed(answers.encode(decision))

        assert told == parsed(codec.encode(replace(decision, grant=None), style))
        assert told.HasField("status")
        if style.tickets is not None and decision.hold is not None:
            assert style.tickets.open(told.dynamic_metadata[TICKET]) == decision.hold
