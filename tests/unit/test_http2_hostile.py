"""Floods are cut off, games with windows cost little, and what a connection keeps is bounded, whatever a peer does."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from authz.adapters.http2 import frames as f
from authz.adapters.http2 import limits
from authz.adapters.http2.frames import frame
from tests.support.http2 import ECHO, WAIT, Wire, block, call, data, headers, message, open_stream


PING = frame(f.PING, 0, 0, bytes(8))
MALFORMED = block(headers(te="gzip"))


def numbers() -> Iterator[int]:
    return count(5, 2)


def again(flood: bytes) -> Iterator[bytes]:
    while True:
        yield flood


def opened(flood: bytes) -> Iterator[bytes]:
    """On stream 3, whose message is to come."""
    yield open_stream(3)
    yield from again(flood)


CONTROLS: dict[str, Callable[[], Iterator[bytes]]] = {
    "PING": lambda: again(PING),
    "acks of PING": lambda: again(frame(f.PING, f.ACK, 0, bytes(8))),
    "SETTINGS": lambda: again(f.settings((f.INITIAL_WINDOW_SIZE, 1))),
    "empty SETTINGS": lambda: again(f.settings()),
    "PRIORITY": lambda: again(frame(f.PRIORITY, 0, 7, bytes(5))),
    "WINDOW_UPDATE": lambda: again(f.window_update(0, 1)),
    "WINDOW_UPDATE of a closed stream": lambda: again(f.window_update(1, 1)),
    "WINDOW_UPDATE of an open stream": lambda: opened(f.window_update(3, 1)),
    "GOAWAY": lambda: again(frame(f.GOAWAY, 0, 0, bytes(8))),
    "frames of an unknown type": lambda: again(frame(0x42, 0, 0, b"")),
    "large frames of an unknown type": lambda: again(frame(0x42, 0, 0, bytes(16_384))),
    "empty DATA": lambda: opened(data(3, b"", 0)),
    "DATA of padding alone": lambda: opened(data(3, b"\xff" + bytes(255), f.PADDED)),
    "a message byte by byte": lambda: (
        one for one in (open_stream(3), data(3, message(bytes(60_000))[:5], 0), *[data(3, b"x", 0)] * 20_000)
    ),
    "DATA on a stream that we ended": lambda: (
        one for one in (frame(f.HEADERS, f.END_HEADERS, 3, MALFORMED), *[data(3, b"", 0)] * 20_000)
    ),
}

RESETS: dict[str, Callable[[], Iterator[bytes]]] = {
    "calls, taken back": lambda: (call(one, path=WAIT) + f.rst_stream(one, f.CANCEL) for one in numbers()),
    "headers, taken back": lambda: (open_stream(one) + f.rst_stream(one, f.CANCEL) for one in numbers()),
    "calls that are done, taken back": lambda: (
        call(one) + f.rst_stream(one, f.CANCEL) + f.rst_stream(1, f.CANCEL) for one in numbers()
    ),
    "malformed calls": lambda: (frame(f.HEADERS, 5, one, MALFORMED) for one in numbers()),
    "calls that we are made to reset": lambda: (call(one, path=WAIT) + f.window_update(one, 0) for one in numbers()),
    "calls that we are made to reset by their data": lambda: (
        call(one, path=WAIT) + data(one, b"") for one in numbers()
    ),
    "calls beyond the limit": lambda: (call(one, b"%d" % one, path=WAIT) for one in numbers()),
}


def kept(wire: Wire) -> int:
    """Things and bytes that the connection holds on to, but for what its open streams hold."""
    connection = wire.connection
    streams = connection._streams
    return (
        len(connection._rest)
        + len(connection._block._fragments if connection._block else b"")
        + sum(map(len, connection._out._parts))
        + len(streams.ids._gaps)
        + len(streams.ids._forgiven)
        + len(streams._room._waiting)
        + len(wire.router.known)
        + len(wire.router._known_fields)
        + len(wire.router.words._kinds)
        + len(wire.router.words._values)
        + len(wire.loop.timers)
    )


def held(wire: Wire) -> int:
    """Bytes of messages that are not whole yet, and of answers that wait."""
    streams = wire.connection._streams
    bodies = sum(len(stream.upload._body) for stream in streams._receiving.values() if stream.upload)
    return bodies + sum(len(stream.unsent) for stream in wire.connection._out.blocked.values())


def flood(wire: Wire, frames: Iterator[bytes], most: int) -> int:
    """How many it took until the connection was ended."""
    for number, one in enumerate(frames, 1):
        wire.feed(one)
        if wire.is_over():
            return number
        if number > most:
            break
    raise AssertionError("it was not cut off")


@pytest.mark.parametrize("name", CONTROLS)
def test_a_flood_of_frames_that_ask_for_nothing_is_cut_off(name: str) -> None:
    wire = Wire().hello()
    took = flood(wire, CONTROLS[name](), limits.CONTROL_BURST + 50)

    assert took > limits.CONTROL_BURST / 2
    assert [one.code for one in wire.goaways] == [f.ENHANCE_YOUR_CALM]
    assert kept(wire) < 20
    assert held(wire) == 0


@pytest.mark.parametrize("name", RESETS)
def test_a_flood_of_calls_that_come_to_nothing_is_cut_off(name: str) -> None:
    wire = Wire().hello()
    took = flood(wire, RESETS[name](), limits.RESET_BURST * 2 + limits.MAX_STREAMS)

    assert took > limits.RESET_BURST / 2
    assert [one.code for one in wire.goaways] == [f.ENHANCE_YOUR_CALM]
    assert kept(wire) < limits.MAX_FORGIVEN + 50
    assert not wire.handlers.waiting


def test_all_that_wait_may_be_taken_back_at_once() -> None:
    """Envoy does, when a time-out of its own ends a hanging store's calls."""
    wire = Wire().hello()
    number = 3
    for _ in range(4):
        mine = range(number, number + 2 * limits.MAX_STREAMS, 2)
        wire.feed(*(call(one, b"%d" % one, WAIT) for one in mine))
        wire.feed(*(f.rst_stream(one, f.CANCEL) for one in mine))
        number = mine[-1] + 2
        wire.loop.advance(0.2)
    wire.feed(call(number))

    assert wire.answers[number].status == 0
    assert len(wire.handlers.cancelled) == 4 * limits.MAX_STREAMS


def test_as_many_as_a_client_may_need_are_no_flood() -> None:
    """Go's pings for each call, and widens both windows; and half of the calls may be taken back."""
    wire = Wire().hello()
    chatter = PING + f.window_update(0, 100) + f.window_update(1, 1) + frame(f.PING, f.ACK, 0, bytes(8))
    for number in range(3, 40_003, 4):
        wire.feed(call(number, path=WAIT) + call(number + 2) + f.rst_stream(number, f.CANCEL) + 2 * chatter)

    assert not wire.is_over()


def test_time_makes_good() -> None:
    wire = Wire().hello()
    for _ in range(20_000):
        wire.loop.now_s += 1 / limits.CONTROL_PER_S + 1e-6
        wire.feed(PING)
    for number in range(3, 20_003, 2):
        wire.loop.now_s += 1 / limits.RESET_PER_S + 1e-6
        wire.feed(call(number, path=WAIT) + f.rst_stream(number, f.CANCEL))

    assert not wire.is_over()


def test_numbers_that_are_left_out_earn_nothing() -> None:
    wire = Wire().hello()
    took = flood(wire, (call(one * 10_001) + 20 * PING for one in numbers()), 1000)

    assert took < 500
    assert [one.code for one in wire.goaways] == [f.ENHANCE_YOUR_CALM]


def test_numbers_that_are_left_out_are_not_all_remembered() -> None:
    wire = Wire().hello()
    for number in range(3, 30_003, 6):
        wire.feed(call(number))

    assert kept(wire) < 50


def test_streams_that_we_end_early_are_not_all_remembered() -> None:
    wire = Wire().hello()
    for number in range(3, 20_003, 2):
        wire.feed(open_stream(number, headers("/no/Such")))

    assert not wire.is_over()
    assert kept(wire) < limits.MAX_FORGIVEN + 50
    wire.feed(data(19_999, b"x"))
    assert not wire.is_over()


def test_headers_of_all_kinds_are_not_all_remembered() -> None:
    wire = Wire().hello()
    for number in range(3, 3003, 2):
        more = (f"x-{number}", "v"), ("grpc-timeout", f"{number}m"), (f"{'long' * 100}-{number}", "v")
        wire.feed(call(number, b"", ECHO, *more))
        assert kept(wire) < 512 + 512 + 1024 + 1024 + 10

    assert wire.answers[3001].status == 0


def test_answers_to_a_closed_window_are_bounded() -> None:
    wire = Wire(max_message_bytes=4096).hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 0)))
    for number in range(3, 8003, 2):
        wire.feed(call(number, b"x" * 4096))

    assert held(wire) <= limits.MAX_STREAMS * (4096 + 5)
    assert wire.handlers.begun == 1 + limits.MAX_STREAMS


def test_a_window_that_is_opened_byte_by_byte() -> None:
    """Each byte costs the peer more than a byte, and us one small frame, until it is cut off."""
    wire = Wire(max_message_bytes=60_000).hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 0)), call(3, b"x" * 16_000))
    written = len(wire.transport.written)
    took = flood(wire, again(f.window_update(3, 1)), limits.CONTROL_BURST + 50)

    assert len(wire.transport.written) - written <= took
    assert held(wire) == 0


def test_a_window_that_opens_and_closes_under_many_answers() -> None:
    wire = Wire().hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 0)), f.window_update(0, 2**20))
    for number in range(3, 3 + 2 * limits.MAX_STREAMS, 2):
        wire.feed(call(number, b"x" * 1000))
    for size in range(1, 100):
        wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, size)), f.settings((f.INITIAL_WINDOW_SIZE, 0)))

    assert all(len(answer.body) == 99 for stream_id, answer in wire.answers.items() if stream_id > 1)
    assert held(wire) == limits.MAX_STREAMS * 1005


def test_messages_that_do_not_end_are_bounded() -> None:
    """On all streams at once, as much of each as we let come."""
    size = 2**20
    wire = Wire(max_message_bytes=size).hello()
    body = message(bytes(size))
    windows: dict[int, int] = {}
    for number in range(3, 3 + 2 * limits.MAX_STREAMS, 2):
        windows[number] = limits.STREAM_WINDOW
        wire.feed(open_stream(number))
    sent = dict.fromkeys(windows, 0)
    progress = True
    while progress:
        progress = False
        for number, window in list(windows.items()):
            most = min(window, len(body) - 1 - sent[number], f.DEFAULT_FRAME)
            if most <= 0:
                continue
            progress = True
            found = wire.feed(data(number, body[sent[number] : sent[number] + most], 0))
            sent[number] += most
            windows[number] -= most
            for one in found:
                if one.kind == f.WINDOW_UPDATE and one.stream_id:
                    windows[one.stream_id] += one.number

    assert not wire.is_over()
    assert held(wire) <= limits.MAX_STREAMS * limits.STREAM_WINDOW + limits.LARGE_MESSAGES


def test_a_header_block_that_does_not_end_is_bounded() -> None:
    wire = Wire().hello()
    wire.feed(frame(f.HEADERS, 0, 3, bytes(16_384)))
    most = 0
    while not wire.is_over():
        wire.feed(frame(f.CONTINUATION, 0, 3, bytes(16_384)))
        most = max(most, kept(wire))

    assert most <= limits.MAX_BLOCK + 20
    assert kept(wire) < 20


def test_a_frame_that_does_not_end_is_bounded() -> None:
    wire = Wire().hello()
    for _ in range(16_384 + 8):
        wire.feed(b"\0\x40\0\0\0\0\0\0\0"[:1] if not wire.connection._rest else b"\0")
        assert kept(wire) < 16_384 + 9 + 20
        if wire.is_over():
            break


def test_answers_are_not_written_to_who_does_not_read() -> None:
    wire = Wire().hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 2**31 - 1)) + f.window_update(0, 2**31 - 1 - 2**16))
    wire.transport.slow = True
    for number in range(3, 3 + 2 * limits.MAX_STREAMS, 2):
        wire.feed(call(number, b"%d" % number, WAIT))
    for future in list(wire.handlers.waiting.values()):
        future.set_result(b"x" * 16_000)
        wire.loop.run()

    assert not wire.transport.is_read()
    assert wire.transport.unread < limits.WRITE_BUFFER + 200_000


def test_what_comes_behind_the_end_is_not_kept() -> None:
    wire = Wire().hello()
    wire.feed(data(0, b""))
    assert wire.is_over()
    for _ in range(1000):
        wire.feed(bytes(16_384))

    assert kept(wire) < 20
