"""A hold travels through the proxy and comes back as it went; nobody else can make one."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.adapters.envoy.ticket import MAX_CHARS, Tickets
from authz.core.bucket import MAX_PERIOD_S, MAX_UNITS, Limit
from authz.core.settlement import DecisionId, Hold, Spent
from tests.support.settlement import HOLD, REFUSED


TICKETS = Tickets((b"the first secret", b"the second one"))
text = st.text(st.characters(codec="utf-8"), max_size=40)
limits = st.builds(Limit, st.integers(1, MAX_UNITS), st.integers(1, MAX_PERIOD_S))
spents = st.builds(Spent, text, text, limits, st.integers(0, MAX_UNITS))
holds = st.builds(
    Hold,
    st.builds(DecisionId, st.binary(min_size=6, max_size=6), st.integers(0, 63), st.integers(0, 2**40)),
    st.integers(0, 2**53),
    text,
    text,
    text,
    text,
    st.booleans(),
    st.booleans(),
    st.lists(spents, max_size=4).map(tuple),
)


@given(holds)
def test_there_and_back(hold: Hold) -> None:
    assert TICKETS.open(TICKETS.seal(hold)) == hold


def test_any_secret_of_the_keyring_opens() -> None:
    assert Tickets((b"a new one", b"the first secret")).open(TICKETS.seal(HOLD)) == HOLD


@pytest.mark.parametrize(
    "ticket",
    [
        pytest.param(Tickets((b"another's",)).seal(HOLD), id="of another keyring"),
        pytest.param("", id="nothing"),
        pytest.param("not base64 !", id="not base64"),
        pytest.param("é" * 40, id="not ASCII"),
        pytest.param("AAAA", id="shorter than its tag"),
        pytest.param("A" * (MAX_CHARS + 4), id="too long"),
        pytest.param(base64.urlsafe_b64encode(b"\0" * 16).decode(), id="a tag of nothing"),
    ],
)
def test_what_is_not_ours(ticket: str) -> None:
    assert TICKETS.open(ticket) is None


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_not_one_bit_of_it_can_be_changed(place: int, difference: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(TICKETS.seal(HOLD)))
    raw[place % len(raw)] ^= difference

    assert TICKETS.open(base64.urlsafe_b64encode(bytes(raw)).decode()) is None


def test_what_this_version_cannot_mean_is_no_hold() -> None:
    """A later version may write limits beyond today's bounds."""
    impossible = replace(HOLD.spent[0].bucket)
    object.__setattr__(impossible, "capacity", 2 * MAX_UNITS)
    hold = replace(HOLD, spent=(replace(HOLD.spent[0], bucket=impossible),))

    assert TICKETS.open(TICKETS.seal(hold)) is None


def test_a_refusal_has_one_too() -> None:
    assert TICKETS.open(TICKETS.seal(REFUSED)) == REFUSED
