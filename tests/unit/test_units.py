"""Durations, limits and sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.bucket import MAX_PERIOD_S, MAX_UNITS, Limit
from authz.core.units import format_limit, parse_duration_ms, parse_limit, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("50ms", 50, id="milliseconds"),
        pytest.param("10s", 10_000, id="seconds"),
        pytest.param("1m", 60_000, id="a minute"),
        pytest.param("24h", 86_400_000, id="hours"),
        pytest.param("90d", 7_776_000_000, id="days"),
        pytest.param("007s", 7000, id="zeros first"),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """A duration is a whole number and a unit."""
    assert parse_duration_ms(text) == expected


TEXTS = ["", "0s", "0ms", "-1s", "+1s", "1.5s", "1e3s", "10", "s", "10 s", " 10s", "10s\n", "10S", "1w", "1h30m", "NaN"]
OTHERS = ["inf", "\u0661s", "9" * 13 + "s", 10, 10.0, True, None, ["10s"], {"s": 10}]


@pytest.mark.parametrize("text", [*TEXTS, *OTHERS])
def test_durations_refused(text: object) -> None:
    """Zero, negative, broken, unit-less and merely similar durations are refused."""
    with pytest.raises(ValueError, match="must be a duration above zero"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("60/1m", Limit(60, 60), id="a minute"),
        pytest.param("1/1s", Limit(1, 1), id="least"),
        pytest.param("1000000000/31d", Limit(MAX_UNITS, MAX_PERIOD_S), id="most"),
        pytest.param("5/744h", Limit(5, MAX_PERIOD_S), id="31 days in hours"),
    ],
)
def test_limits(text: str, expected: Limit) -> None:
    """A limit is a capacity and the period in which it is regained."""
    assert parse_limit(text) == expected


SHAPE = "must be capacity/period, such as '60/1m'"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        pytest.param("0/1m", "the capacity must be from 1 to 1000000000", id="capacity zero"),
        pytest.param("1000000001/1m", "the capacity must be from 1 to 1000000000", id="capacity too large"),
        pytest.param("60/0s", "must be a duration above zero", id="period zero"),
        pytest.param("60/32d", "the period must be whole seconds, from 1s to 31d", id="period too long"),
        pytest.param("60/500ms", "the period must be whole seconds, from 1s to 31d", id="less than a second"),
        pytest.param("60/1500ms", "the period must be whole seconds, from 1s to 31d", id="a second and a half"),
        pytest.param("-1/1m", SHAPE, id="capacity negative"),
        pytest.param("60/-1m", SHAPE, id="period negative"),
        pytest.param("1.5/1m", SHAPE, id="capacity with a fraction"),
        pytest.param("NaN/1m", SHAPE, id="NaN"),
        pytest.param("inf/1m", SHAPE, id="infinity"),
        pytest.param("1e3/1m", SHAPE, id="an exponent"),
        pytest.param("60", SHAPE, id="no period"),
        pytest.param("60/m", SHAPE, id="no number in the period"),
        pytest.param("60/min", SHAPE, id="another unit"),
        pytest.param("60 / 1m", SHAPE, id="spaces"),
        pytest.param("60/1m\n", SHAPE, id="a line end"),
        pytest.param("60/1m/2", SHAPE, id="two slashes"),
        pytest.param("\u0666/1m", SHAPE, id="a digit that is not ASCII"),
        pytest.param("", SHAPE, id="empty"),
        pytest.param(60, SHAPE, id="a number"),
        pytest.param(True, SHAPE, id="a boolean"),
        pytest.param(None, SHAPE, id="null"),
        pytest.param({"requests": 60}, SHAPE, id="a mapping"),
    ],
)
def test_limits_refused(text: object, fault: str) -> None:
    """A limit out of bounds is refused for its part, everything else for its shape."""
    with pytest.raises(ValueError, match=fault):
        parse_limit(text)


@given(st.builds(Limit, st.integers(1, MAX_UNITS), st.integers(1, MAX_PERIOD_S)))
def test_limits_come_back(limit: Limit) -> None:
    """A limit that is written is read as the same."""
    assert parse_limit(format_limit(limit)) == limit


@given(st.text() | st.text("0123456789./-msdh", max_size=12))
def test_any_text_is_a_limit_or_a_value_error(text: str) -> None:
    """Whatever is written, it is a limit within bounds or a ValueError."""
    try:
        limit = parse_limit(text)
    except ValueError:
        return
    assert 1 <= limit.capacity <= MAX_UNITS
    assert 1 <= limit.period_s <= MAX_PERIOD_S


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(1, 1, id="whole bytes"),
        pytest.param(10_485_760, 10_485_760, id="many of them"),
        pytest.param("7B", 7, id="B"),
        pytest.param("64kB", 64_000, id="kB"),
        pytest.param("64KB", 64_000, id="KB"),
        pytest.param("10MB", 10_000_000, id="MB"),
        pytest.param("1GB", 10**9, id="GB"),
        pytest.param("64KiB", 65_536, id="KiB"),
        pytest.param("10MiB", 10_485_760, id="MiB"),
        pytest.param("2GiB", 2**31, id="GiB"),
    ],
)
def test_sizes(size: object, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize(
    "size",
    [
        *("", "10", "MB", "10 MB", "10mb", "10Mb", "1.5MB", "-1MB", "10MB\n", "1e3B", "٣MB", "0MB", "1001GB"),
        *(0, -1, 1.0, True, None, 10**12 + 1, [1]),
    ],
)
def test_sizes_refused(size: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(size)
