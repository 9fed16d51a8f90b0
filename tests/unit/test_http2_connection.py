"""One connection: what it says of itself, windows both ways, deadlines, cancelling, failures, patience, drain."""

import logging
from collections.abc import Iterator

import pytest

from authz.adapters.http2 import frames as f
from authz.adapters.http2 import limits
from authz.adapters.http2.connection import DRAIN_PING, NEARLY_LAST
from authz.adapters.http2.frames import frame
from tests.support.http2 import (
    ECHO,
    FAIL,
    HELLO,
    MESSAGE,
    WAIT,
    Frame,
    Wire,
    block,
    call,
    data,
    headers,
    message,
    open_stream,
)


PADDING = 256  # what a padded frame takes of a window, beside its data
TIMED = ("grpc-timeout", "200m")


def setting(name: int, value: int) -> bytes:
    return f.settings((name, value))


def reset(stream_id: int) -> bytes:
    return f.rst_stream(stream_id, f.CANCEL)


def of(found: list[Frame], stream_id: int) -> list[tuple[int, int, int]]:
    """Kind, flags and length of the frames of a stream."""
    return [(one.kind, one.flags, len(one.payload)) for one in found if one.stream_id == stream_id]


def kinds(found: list[Frame]) -> list[int]:
    return [one.kind for one in found]


def small_windows() -> Wire:
    """A peer whose streams may be sent nothing."""
    wire = Wire().hello()
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 0))
    return wire


# What it says


def test_the_greeting() -> None:
    wire = Wire()
    greeting, widening = wire.new()

    assert dict(f.SETTING.iter_unpack(greeting.payload)) == {
        f.HEADER_TABLE_SIZE: 0,
        f.MAX_CONCURRENT_STREAMS: limits.MAX_STREAMS,
        f.INITIAL_WINDOW_SIZE: limits.STREAM_WINDOW,
        f.MAX_HEADER_LIST_SIZE: limits.MAX_HEADER_LIST,
    }
    assert (widening.kind, widening.number) == (f.WINDOW_UPDATE, limits.CONNECTION_WINDOW - f.DEFAULT_WINDOW)


def test_their_settings_are_acknowledged_and_their_pings_answered() -> None:
    wire = Wire()
    wire.new()

    assert wire.feed(HELLO) == [Frame(f.SETTINGS, f.ACK, 0, b"")]
    assert wire.feed(frame(f.PING, 0, 0, b"abcdefgh")) == [Frame(f.PING, f.ACK, 0, b"abcdefgh")]
    assert wire.feed(frame(f.PING, f.ACK, 0, b"abcdefgh")) == []


def test_an_answer() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"asked"))
    answer = wire.answers[3]

    assert answer.headers == [{":status": "200", "content-type": "application/grpc"}, {"grpc-status": "0"}]
    assert answer.message == b"asked"


def test_the_first_block_gives_up_the_table_whatever_its_size() -> None:
    """A peer that lowered its own must be told so; nghttp2 ends the connection otherwise."""
    wire = Wire()
    wire.feed(f.PREFACE + setting(f.HEADER_TABLE_SIZE, 0) + call(1, path="/no/Such") + call(3))
    blocks = [one.payload for one in wire.frames if one.kind == f.HEADERS]

    assert [one[0] == 0x20 for one in blocks] == [True, False, False]
    assert wire.answers[3].status == 0


def test_the_answers_to_one_read_are_one_write() -> None:
    wire = Wire().hello()
    before = len(wire.transport.written)
    wire.feed(b"".join(call(number) for number in range(3, 43, 2)) + frame(f.PING, 0, 0, bytes(8)))

    assert len(wire.transport.written) == before + 1
    assert all(wire.answers[number].status == 0 for number in range(3, 43, 2))


def test_the_answers_that_are_ready_together_are_one_write() -> None:
    wire = Wire().hello()
    wire.feed(*(call(number, b"%d" % number, WAIT) for number in range(3, 43, 2)))
    before = len(wire.transport.written)
    for future in list(wire.handlers.waiting.values()):
        future.set_result(b"done")
    wire.loop.run()

    assert len(wire.transport.written) == before + 1
    assert all(wire.answers[number].message == b"done" for number in range(3, 43, 2))


def test_header_blocks_are_remembered_by_their_bytes() -> None:
    wire = Wire().hello()
    wire.feed(
        call(3), call(5), call(7, MESSAGE, ECHO, ("traceparent", "1")), call(9, MESSAGE, ECHO, ("traceparent", "2"))
    )

    assert len(wire.router.known) == 3
    assert len({id(opening) for opening in wire.router.known.values()}) == 1  # as what is read of them is the same


def test_what_is_remembered_is_bounded() -> None:
    wire = Wire().hello()
    for number in range(3, 5003, 2):
        wire.feed(call(number, b"", ECHO, (f"x-{number}", "v"), ("grpc-timeout", f"{number}m")))
        if number % 501 == 0:
            assert len(wire.router.known) <= 512
    long = call(5003, b"", ECHO, ("x-long", "v" * 4000), ("grpc-timeout", "77m"))
    known = len(wire.router.known)
    wire.feed(long)

    assert len(wire.router.known) == known
    assert wire.answers[5003].status == 0


# Windows, theirs


def test_an_answer_waits_for_its_streams_window() -> None:
    wire = small_windows()
    found = wire.feed(call(3, b"x" * 100))
    assert of(found, 3) == [(f.HEADERS, f.END_HEADERS, 20)]

    assert of(wire.feed(f.window_update(3, 60)), 3) == [(f.DATA, 0, 60)]
    assert of(wire.feed(f.window_update(3, 1000)), 3) == [
        (f.DATA, 0, 45),
        (f.HEADERS, f.END_HEADERS | f.END_STREAM, 15),
    ]
    assert wire.answers[3].message == b"x" * 100


def test_an_answer_waits_for_the_connections_window() -> None:
    wire = Wire(max_message_bytes=2**20).hello(b"")
    opening = frame(f.HEADERS, f.END_HEADERS, 1, b"\x20" + block(headers()))
    asked = message(b"x" * 70_000)
    pieces = [data(1, asked[at : at + 16_384], 0) for at in range(0, len(asked), 16_384)]
    wire.feed(f.window_update(0, 1), setting(f.INITIAL_WINDOW_SIZE, 2**20), opening, *pieces, data(1, b""))
    sent = sum(len(one.payload) for one in wire.frames if one.kind == f.DATA)
    assert sent == f.DEFAULT_WINDOW + 1
    assert not wire.answers[1].ended

    wire.feed(call(3, b"small"))
    assert wire.answers[3].body == b""  # nobody overtakes
    wire.feed(f.window_update(0, 10_000))

    assert wire.answers[1].message == b"x" * 70_000
    assert wire.answers[3].message == b"small"


def test_frames_are_no_larger_than_the_peer_takes() -> None:
    wire = Wire(max_message_bytes=2**20).hello()
    asked = message(b"x" * 40_000)
    upload = [open_stream(3), *(data(3, asked[at : at + 16_384], 0) for at in range(0, 40_005, 16_384)), data(3, b"")]
    found = wire.feed(*upload)
    assert [len(one.payload) for one in found if one.kind == f.DATA] == [16_384, 16_384, 7237]

    wire.feed(setting(f.MAX_FRAME_SIZE, 20_000) + f.window_update(0, 2**20))
    upload = [open_stream(5), *(data(5, asked[at : at + 16_384], 0) for at in range(0, 40_005, 16_384)), data(5, b"")]
    found = wire.feed(*upload)
    assert [len(one.payload) for one in found if one.kind == f.DATA] == [20_000, 20_000, 5]

    wire.feed(call(7, b"x" * 16_000), setting(f.MAX_FRAME_SIZE, 16_384))
    whole = message(b"x" * 18_000)
    found = wire.feed(open_stream(9), data(9, whole[:16_384], 0), data(9, whole[16_384:]))
    assert [len(one.payload) for one in found if one.kind == f.DATA] == [16_384, 1621]


def test_a_window_that_is_lowered_below_what_was_sent_is_negative() -> None:
    wire = Wire().hello()
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 50), call(3, b"x" * 100))
    assert len(wire.answers[3].body) == 50
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 10), f.window_update(3, 40))
    assert len(wire.answers[3].body) == 50
    wire.feed(f.window_update(3, 1))
    assert len(wire.answers[3].body) == 51
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 100))

    assert wire.answers[3].message == b"x" * 100


def test_a_stream_may_be_widened_before_its_answer() -> None:
    wire = small_windows()
    wire.feed(call(3, path=WAIT) + f.window_update(3, 1000))
    wire.handlers.waiting[MESSAGE].set_result(b"answered")
    wire.loop.run()

    assert wire.answers[3].message == b"answered"


def test_an_answer_that_waits_can_be_taken_back() -> None:
    wire = small_windows()
    wire.feed(call(3) + call(5))
    wire.feed(reset(3), f.window_update(5, 1000))

    assert not wire.answers[3].ended
    assert wire.answers[5].message == MESSAGE
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 1000) + call(7))
    assert wire.answers[7].message == MESSAGE


# Windows, ours


def in_frames(stream_id: int, body: bytes) -> list[bytes]:
    asked = message(body)
    return [data(stream_id, asked[at : at + f.DEFAULT_FRAME], 0) for at in range(0, len(asked), f.DEFAULT_FRAME)]


def widened(found: list[Frame], stream_id: int) -> int:
    return sum(one.number for one in found if one.kind == f.WINDOW_UPDATE and one.stream_id == stream_id)


def test_a_large_message_is_given_its_window_once_its_length_is_known() -> None:
    wire = Wire(max_message_bytes=10 * 2**20).hello()
    body = b"x" * (10 * 2**20)
    first, *rest = in_frames(3, body)
    found = wire.feed(open_stream(3), first)
    assert widened(found, 3) == len(body) + 5 + PADDING - limits.STREAM_WINDOW

    wire.feed(f.window_update(0, 2**31 - 1 - 2**16) + setting(f.INITIAL_WINDOW_SIZE, 2**31 - 1), *rest, data(3, b""))
    assert wire.answers[3].message == body


@pytest.mark.parametrize("behind", [0, 1000, 20_000])
def test_a_stream_from_before_the_ack_has_the_smaller_window_behind_it(behind: int) -> None:
    """As the peer counts it: what it was given is made up for."""
    body = b"x" * 60_000
    asked = message(body)
    wire = Wire()
    before = [data(1, asked[:behind][at : at + 16_384], 0) for at in range(0, behind, 16_384)]
    found = wire.feed(f.PREFACE + f.settings(), frame(f.HEADERS, f.END_HEADERS, 1, block(headers())), *before)
    given = limits.STREAM_WINDOW + widened(found, 1)
    found = wire.feed(frame(f.SETTINGS, f.ACK, 0, b""))
    given += widened(found, 1)
    if not behind:
        given += widened(wire.feed(data(1, asked[:5], 0)), 1)
        behind = 5

    assert given == len(asked) + PADDING
    rest = asked[behind:]
    wire.feed(*(data(1, rest[at : at + 16_384], 0) for at in range(0, len(rest), 16_384)))
    assert wire.answers == {}
    wire.feed(data(1, b""))
    assert wire.answers[1].message == body


def test_padding_is_given_back() -> None:
    """A small message with much padding fits, too."""
    wire = Wire().hello()
    wire.feed(open_stream(3))
    for byte in message(b"m" * 295):
        wire.feed(data(3, b"\xff" + bytes([byte]) + bytes(255), f.PADDED))
    wire.feed(data(3, b""))

    assert wire.answers[3].message == b"m" * 295


def test_the_connections_window_is_given_back() -> None:
    wire = Wire(max_message_bytes=2**20).hello()
    sent = 0
    for number in range(3, 83, 2):
        wire.feed(open_stream(number), *in_frames(number, b"x" * 500_000), data(number, b""))
        sent += 500_005

    assert 0 <= sent - widened(wire.frames[2:], 0) <= limits.CONNECTION_WINDOW // 2


def test_large_messages_take_turns() -> None:
    """What is held of them on one connection is bounded; who waits goes on when another's call is over."""
    size = 5 * 2**20
    wire = Wire(max_message_bytes=size).hello()  # there is room for two of them
    body = b"x" * size
    numbers = [3, 5, 7, 9]
    uploads = {number: in_frames(number, body) for number in numbers}
    granted = []
    for number in numbers:
        found = wire.feed(open_stream(number, headers(WAIT)), uploads[number][0])
        granted += [number for _ in [1] if widened(found, number)]
    assert granted == [3]  # 2 * size is room for one with its prefix, and a little

    found = wire.feed(*uploads[3][1:], data(3, b""))
    assert widened(found, 5) == 0  # the handler has it still
    wire.handlers.waiting[body].set_result(b"")
    wire.loop.run()
    found = wire.new()
    assert [number for number in numbers if widened(found, number)] == [5]

    assert widened(wire.feed(reset(7) + reset(5)), 9) == size + 5 + PADDING - limits.STREAM_WINDOW
    assert wire.feed(reset(9)) == []


def test_small_messages_do_not_wait_for_large_ones() -> None:
    wire = Wire(max_message_bytes=5 * 2**20).hello()
    for number in (3, 5, 7):
        wire.feed(open_stream(number), in_frames(number, b"x" * 5 * 2**20)[0])
    wire.feed(open_stream(9), data(9, message(b"y" * 10_000), 0), data(9, b""))

    assert wire.answers[9].message == b"y" * 10_000


# Cancelling


def test_a_call_that_is_taken_back_is_cancelled() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"3", WAIT) + call(5, b"5", WAIT))
    assert wire.feed(reset(3)) == []

    assert wire.handlers.cancelled == [b"3"]
    wire.handlers.waiting[b"5"].set_result(b"done")
    wire.loop.run()
    assert wire.answers[5].message == b"done"
    assert 3 not in wire.answers


def test_a_message_that_is_taken_back_begins_nothing() -> None:
    wire = Wire().hello()
    wire.feed(open_stream(3) + data(3, message()[:7], 0) + reset(3))

    assert wire.handlers.begun == 1  # the greeting's
    assert wire.feed(call(5)) != []


def test_calls_of_a_lost_connection_are_cancelled() -> None:
    wire = small_windows()
    wire.feed(call(3, b"3", WAIT) + open_stream(5) + call(7) + call(9, b"9", WAIT))
    sent = len(wire.frames)
    wire.lose()

    assert wire.handlers.cancelled == [b"3", b"9"]
    assert wire.lost == [wire.connection]
    assert len(wire.frames) == sent


def test_calls_of_a_connection_that_broke_a_rule_are_cancelled() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"3", WAIT) + frame(f.PING, 0, 3, bytes(8)))

    assert wire.handlers.cancelled == [b"3"]
    assert [one.code for one in wire.goaways] == [f.PROTOCOL_ERROR]
    assert wire.goaways[0].number == 3


def test_nothing_is_given_out_behind_the_end() -> None:
    """One of two large messages leaves its room to the other, as both are dropped."""
    size = 5 * 2**20
    wire = Wire(max_message_bytes=size).hello()
    for number in (3, 5):
        wire.feed(open_stream(number), in_frames(number, b"x" * size)[0])
    wire.feed(data(0, b""))

    assert wire.frames[-1].kind == f.GOAWAY


def test_what_is_being_cancelled_counts_until_it_is_over() -> None:
    """Who takes calls back cannot have more handlers at work than who does not."""
    wire = Wire(more={"Stubborn": stubborn}).hello()
    path = "/tests.Bytes/Stubborn"
    for number in range(3, 3 + 2 * limits.MAX_STREAMS, 2):
        wire.feed(call(number, path=path) + reset(number))
    last = 3 + 2 * limits.MAX_STREAMS
    wire.feed(call(last))

    assert wire.answers[last].reset == f.REFUSED_STREAM


class Never:
    """A future that is not to be cancelled."""

    def __init__(self) -> None:
        self._asyncio_future_blocking = False

    def add_done_callback(self, _: object) -> None:
        pass

    def cancel(self) -> bool:
        return False

    def __await__(self) -> Iterator[object]:
        self._asyncio_future_blocking = True
        yield self


async def stubborn(_: bytes) -> bytes:
    await Never()  # type: ignore[misc]
    return b""


# Deadlines


def test_a_call_out_of_time_is_answered_and_cancelled() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"3", WAIT, TIMED))
    wire.loop.advance(0.19)
    assert wire.new() == []
    wire.loop.advance(0.02)

    assert wire.answers[3].status == 4
    assert wire.answers[3].reset is None
    assert wire.handlers.cancelled == [b"3"]


def test_a_message_out_of_time_is_answered() -> None:
    wire = Wire().hello()
    wire.feed(open_stream(3, headers(WAIT, TIMED)) + data(3, message()[:5], 0))
    wire.loop.advance(0.21)

    assert [one.get("grpc-status") for one in wire.answers[3].headers] == ["4"]
    assert wire.answers[3].reset == f.NO_ERROR
    wire.new()
    assert wire.feed(data(3, message()[5:])) == []
    assert wire.feed(call(5)) != []


def test_an_answer_out_of_time_is_broken_off() -> None:
    wire = small_windows()
    wire.feed(call(3, MESSAGE, ECHO, TIMED))
    assert wire.loop.timers == []  # it was done at once; only what waits is watched
    wire.feed(call(5, b"5", WAIT, TIMED))
    wire.handlers.waiting[b"5"].set_result(b"late")
    wire.loop.run()
    wire.loop.advance(0.21)

    assert wire.answers[5].reset == f.CANCEL
    wire.feed(f.window_update(3, 1000))
    assert wire.answers[3].message == MESSAGE


def test_one_timer_watches_all_calls() -> None:
    wire = Wire().hello()
    for number in range(3, 203, 2):
        wire.feed(call(number, b"%d" % number, WAIT, ("grpc-timeout", f"{200 + number}m")))
    assert len(wire.loop.timers) == 1
    wire.feed(call(203, b"203", WAIT, ("grpc-timeout", "100m")))
    assert len([timer for timer in wire.loop.timers if not timer.cancelled]) == 1

    for _ in range(40):
        wire.loop.advance(0.01)
    assert wire.answers[203].status == 4
    assert sorted(wire.answers) == [1, *range(3, 200, 2), 203]
    assert len(wire.handlers.waiting) == 1


def test_a_call_that_was_in_time_is_not_answered_twice() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"3", WAIT, TIMED))
    wire.handlers.waiting[b"3"].set_result(b"in time")
    wire.loop.run()
    wire.new()
    wire.loop.advance(1)

    assert wire.new() == []
    assert wire.loop.timers == []


# Failures


def test_a_handler_that_fails_is_told_once_and_without_the_message(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"PLANTED", FAIL))

    assert wire.answers[3].headers == [
        {
            ":status": "200",
            "content-type": "application/grpc",
            "grpc-status": "13",
            "grpc-message": "the call failed",
        }
    ]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.fields["error"] == "ValueError"  # type: ignore[attr-defined]
    assert "fail" in record.fields["traceback"]  # type: ignore[attr-defined]
    assert "PLANTED" not in repr(record.__dict__)


def test_a_handler_that_answers_with_something_else_has_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def odd(_: bytes) -> bytes:
        return "text"  # type: ignore[return-value]

    wire = Wire(more={"Odd": odd}).hello()
    wire.feed(call(3, path="/tests.Bytes/Odd"))

    assert wire.answers[3].status == 13
    assert len(caplog.records) == 1


def test_a_handler_that_fails_while_it_is_cancelled_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def failing(asked: bytes) -> bytes:
        try:
            return await wire.handlers.wait(asked)
        finally:
            raise LookupError

    wire = Wire(more={"Failing": failing}).hello()
    wire.feed(call(3, path="/tests.Bytes/Failing") + reset(3))

    assert [record.fields["error"] for record in caplog.records] == ["LookupError"]  # type: ignore[attr-defined]
    assert 3 not in wire.answers


def test_a_broken_rule_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    wire = Wire().hello()
    wire.feed(open_stream(3, headers("/PLANTED")) + data(0, b"PLANTED"), data(0, b"PLANTED"))

    [record] = caplog.records
    assert record.getMessage() == "a connection was ended: data belongs to a stream"
    assert b"data belongs to a stream" in wire.goaways[0].payload


@pytest.mark.parametrize("hello", [HELLO, f.PREFACE + f.settings()], ids=["stateless", "with a table"])
def test_nothing_of_a_call_is_logged(hello: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    wire = Wire()
    planted = headers("/PLANTED", ("x-planted", "PLANTED"), ("grpc-timeout", "PLANTED"), authority="PLANTED")
    wire.feed(hello + frame(f.HEADERS, f.END_HEADERS, 1, b"\x20" + block(planted)) + data(1, message(b"PLANTED")))
    wire.feed(open_stream(3, [("PLANTED", "PLANTED")]) + data(9, b"PLANTED"))

    assert wire.goaways != []
    assert len(caplog.records) == 1
    assert "PLANTED" not in repr([record.__dict__ for record in caplog.records])
    assert b"PLANTED" not in b"".join(wire.transport.written)


# Patience


@pytest.mark.parametrize(
    ("begun", "code"),
    [
        pytest.param(b"", f.PROTOCOL_ERROR, id="nothing"),
        pytest.param(f.PREFACE[:20], f.PROTOCOL_ERROR, id="half a preface"),
        pytest.param(f.PREFACE, f.PROTOCOL_ERROR, id="no SETTINGS"),
        pytest.param(f.PREFACE + f.settings(), f.SETTINGS_TIMEOUT, id="no ack"),
        pytest.param(HELLO + b"\0\0", f.ENHANCE_YOUR_CALM, id="half a frame's head"),
        pytest.param(HELLO + frame(f.PING, 0, 0, bytes(8))[:-1], f.ENHANCE_YOUR_CALM, id="half a frame"),
        pytest.param(HELLO + frame(f.HEADERS, 0, 1, b"\x20"), f.ENHANCE_YOUR_CALM, id="half a header block"),
    ],
)
def test_who_does_not_go_on_is_ended(begun: bytes, code: int) -> None:
    wire = Wire()
    wire.feed(begun)
    wire.tick(limits.PATIENCE_S - 1)
    assert wire.goaways == []
    wire.tick(2)

    assert [one.code for one in wire.goaways] == [code]
    assert wire.is_over()


def test_drop_by_drop_is_not_to_go_on() -> None:
    wire = Wire().hello()
    for byte in frame(f.PING, 0, 0, bytes(8))[:-1]:
        wire.feed(bytes([byte]))
        wire.tick(1)

    assert [one.code for one in wire.goaways] == [f.ENHANCE_YOUR_CALM]


def test_who_goes_on_is_not_ended() -> None:
    wire = Wire().hello()
    ping = frame(f.PING, 0, 0, bytes(8))
    wire.feed(ping[:9])
    for _ in range(30):
        wire.tick(limits.PATIENCE_S - 1)
        wire.feed(ping[9:] + ping[:9])

    assert wire.goaways == []


def test_an_idle_connection_stays() -> None:
    wire = Wire().hello()
    for _ in range(100):
        wire.tick(100)

    assert wire.goaways == []
    assert not wire.is_over()


def test_a_message_that_does_not_come_is_given_up() -> None:
    wire = Wire().hello()
    wire.feed(open_stream(3) + data(3, message()[:7], 0))
    wire.tick(limits.STALL_S - 1)
    assert 3 not in wire.answers
    wire.tick(2)

    assert wire.answers[3].reset == f.NO_ERROR
    assert wire.goaways == []


def test_answers_that_nobody_takes_end_the_connection() -> None:
    wire = small_windows()
    wire.feed(call(3, b"x" * 100))
    for _ in range(5):
        wire.feed(f.window_update(3, 1))
        wire.tick(limits.STALL_S - 1)
    assert wire.goaways == []
    wire.tick(2)

    assert [one.code for one in wire.goaways] == [f.ENHANCE_YOUR_CALM]


def test_a_peer_that_does_not_read_is_not_read_from() -> None:
    wire = Wire().hello()
    wire.feed(setting(f.INITIAL_WINDOW_SIZE, 2**20) + f.window_update(0, 2**30))
    wire.transport.slow = True
    number = 3
    while wire.transport.is_read():
        wire.feed(call(number, b"x" * 10_000))
        number += 2
    unread = wire.transport.unread
    assert unread < limits.WRITE_BUFFER + 20_000
    wire.feed(call(number, b"x" * 10_000))
    assert wire.transport.unread < unread + 100  # its answer is kept back
    wire.transport.slow = False
    wire.transport.read_all()

    assert wire.transport.is_read()
    wire.loop.run()
    assert all(wire.answers[one].message == b"x" * 10_000 for one in range(3, number + 2, 2))


def test_a_peer_that_never_reads_is_ended() -> None:
    wire = Wire().hello()
    wire.feed(f.window_update(0, 2**30))
    wire.transport.slow = True
    number = 3
    while wire.transport.is_read():
        wire.feed(call(number, b"x" * 10_000))
        number += 2
    wire.tick(limits.STALL_S + 1)
    assert wire.is_over()
    assert (wire.transport.eof, wire.transport.aborted) == (False, False)  # there is something to be read, still
    wire.tick(limits.STALL_S + 1)

    assert wire.transport.aborted


def test_after_the_last_word_the_peer_may_hang_up_in_peace() -> None:
    wire = Wire().hello()
    wire.feed(data(0, b""))
    wire.feed(call(3))
    wire.tick(limits.LINGER_S / 2)
    assert (wire.transport.eof, wire.transport.aborted) == (True, False)
    wire.tick(limits.LINGER_S)

    assert wire.transport.aborted
    assert 3 not in wire.answers


# Drain


def test_draining_takes_two_steps() -> None:
    wire = Wire().hello()
    wire.feed(call(3, b"3", WAIT))
    wire.connection.drain()
    wire.loop.run()
    goaway, ping = wire.new()
    assert (goaway.kind, goaway.number, goaway.code) == (f.GOAWAY, f.LAST_STREAM, f.NO_ERROR)
    assert (ping.kind, ping.flags, ping.payload) == (f.PING, 0, DRAIN_PING)

    wire.feed(call(5))  # it did not know yet
    assert wire.answers[5].status == 0
    [last] = wire.feed(frame(f.PING, f.ACK, 0, DRAIN_PING))
    assert (last.kind, last.number, last.code) == (f.GOAWAY, 5, f.NO_ERROR)
    wire.feed(call(7))
    assert wire.answers[7].reset == f.REFUSED_STREAM
    assert not wire.is_over()

    wire.handlers.waiting[b"3"].set_result(b"done")
    wire.loop.run()
    assert wire.answers[3].message == b"done"
    assert wire.is_over()
    assert not wire.transport.aborted


def test_without_an_ack_the_second_step_comes_by_itself() -> None:
    wire = Wire().hello()
    wire.connection.drain()
    wire.loop.advance(limits.DRAIN_PING_S)

    assert [one.number for one in wire.goaways] == [f.LAST_STREAM, 1]
    assert wire.is_over()


def test_the_ack_that_comes_late_changes_nothing() -> None:
    wire = Wire().hello()
    wire.feed(call(3, path=WAIT))
    wire.connection.drain()
    wire.connection.drain()
    wire.loop.advance(limits.DRAIN_PING_S)
    wire.feed(frame(f.PING, f.ACK, 0, DRAIN_PING))

    assert len(wire.goaways) == 2
    assert not wire.is_over()


@pytest.mark.parametrize("end", ["a failure", "taken back", "out of time", "window"])
def test_the_last_call_ends_a_drained_connection(end: str) -> None:
    wire = small_windows()
    path = {"a failure": WAIT, "window": ECHO}.get(end, WAIT)
    wire.feed(call(3, b"3", path, TIMED))
    wire.connection.drain()
    wire.feed(frame(f.PING, f.ACK, 0, DRAIN_PING))
    assert not wire.is_over()
    match end:
        case "a failure":
            wire.handlers.waiting[b"3"].set_exception(LookupError())
        case "taken back":
            wire.feed(reset(3))
        case "out of time":
            wire.loop.advance(0.3)
        case _:
            wire.feed(f.window_update(3, 100))
    wire.loop.run()

    assert wire.is_over()


def test_who_has_not_greeted_is_told_at_once() -> None:
    wire = Wire()
    wire.feed(f.PREFACE[:10])
    wire.connection.drain()
    wire.loop.run()

    assert [(one.number, one.code) for one in wire.goaways] == [(0, f.NO_ERROR)]
    assert wire.is_over()


def test_what_is_left_in_the_end_is_answered() -> None:
    wire = small_windows()
    wire.feed(call(3, b"3", WAIT) + open_stream(5) + call(7))
    wire.connection.drain()
    wire.connection.stop()
    wire.loop.run()

    assert [wire.answers[number].status for number in (3, 5)] == [14, 14]
    assert wire.answers[7].reset == f.CANCEL
    assert wire.handlers.cancelled == [b"3"]
    assert wire.is_over()


def test_who_has_heard_the_last_word_is_not_told_again() -> None:
    wire = Wire().hello()
    wire.feed(data(0, b""))
    wire.connection.drain()
    wire.connection.settle()
    wire.connection.stop()
    wire.loop.run()

    assert [one.code for one in wire.goaways] == [f.PROTOCOL_ERROR]


def test_numbers_run_out() -> None:
    """In time for the client to find itself another connection; the last number of all is still served."""
    wire = Wire().hello()
    assert wire.feed(call(NEARLY_LAST - 2))[-1].kind == f.HEADERS
    assert wire.goaways == []
    wire.feed(call(NEARLY_LAST))
    assert [one.number for one in wire.goaways] == [f.LAST_STREAM]
    wire.feed(call(f.LAST_STREAM))
    assert wire.answers[f.LAST_STREAM].status == 0

    wire.feed(frame(f.PING, f.ACK, 0, DRAIN_PING))
    assert wire.goaways[-1].number == f.LAST_STREAM
    assert wire.is_over()


@pytest.mark.parametrize("number", [1, 1 | 1 << 31])
def test_there_is_no_number_behind_the_last(number: int) -> None:
    wire = Wire().hello()
    wire.feed(call(f.LAST_STREAM), frame(f.HEADERS, f.END_HEADERS, number, block(headers())))

    assert [one.code for one in wire.goaways] == [f.NO_ERROR, f.STREAM_CLOSED]
