"""
The fast server against anything: however a stream of bytes is cut, it means the same; whatever bytes come, nothing is
raised, nothing is kept beyond the limits, and what is sent is in order; and whatever peers and handlers do in whatever
order, each call that is not taken back is answered once, within the peer's windows.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import hpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz.adapters.http2 import frames as f
from authz.adapters.http2 import limits, messages
from authz.adapters.http2.blocks import BlockReader, Head, Words, _read_with, decode, walk
from authz.adapters.http2.frames import ProtocolError, frame
from tests.support.http2 import (
    ECHO,
    HELLO,
    SERVICE,
    WAIT,
    Answer,
    Frame,
    Wire,
    answers,
    block,
    call,
    data,
    headers,
    message,
)


FAST = settings(deadline=None, suppress_health_check=list(HealthCheck))

bodies = st.binary(max_size=40) | st.integers(0, 40_000).map(bytes)
extra_headers = st.lists(
    st.tuples(st.text("abcxyz019-", max_size=12).map("x-{}".format), st.text("abc XYZ0123456789-_=;,", max_size=60)),
    max_size=3,
).map(lambda found: [(name, value.strip()) for name, value in found])


@dataclass
class Sent:
    """A valid sequence, and the message that each stream's answer has to be."""

    sent: bytes = b""
    expected: dict[int, bytes] = field(default_factory=dict)


def cut(draw: st.DrawFn, whole: bytes, most: int) -> list[bytes]:
    """In pieces that may be empty."""
    places = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=most)))
    return [whole[a:b] for a, b in pairwise([0, *places, len(whole)])]


def upload(draw: st.DrawFn, stream_id: int, body: bytes) -> bytes:
    """A message in frames, padded or not, its end for itself, or behind trailers, or not."""
    made = b""
    framed = message(body)
    pieces = [piece[at : at + 16_000] for piece in cut(draw, framed, 3) for at in range(0, len(piece) or 1, 16_000)]
    ending = draw(st.sampled_from(["in the last", "for itself", "trailers"]))
    for number, piece in enumerate(pieces):
        last = f.END_STREAM if ending == "in the last" and number == len(pieces) - 1 else 0
        padding = draw(st.none() | st.integers(0, 255))
        if padding is None:
            made += data(stream_id, piece, last)
        else:
            made += data(stream_id, bytes([padding]) + piece + bytes(padding), f.PADDED | last)
    if ending == "for itself":
        made += data(stream_id, b"")
    if ending == "trailers":
        made += frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, stream_id, b"\0\1a\1b")
    return made


def opening(draw: st.DrawFn, stream_id: int, fields: list[tuple[str, str]]) -> bytes:
    """Headers in frames, padded or not, with a priority or not."""
    first, *rest = cut(draw, block(fields, huffman=draw(st.booleans())), 2)
    flags = 0 if rest else f.END_HEADERS
    if draw(st.booleans()):
        first, flags = f.WORD.pack(stream_id + 2) + b"\x10" + first, flags | f.WITH_PRIORITY
    if draw(st.booleans()):
        first, flags = b"\x02" + first + bytes(2), flags | f.PADDED
    made = frame(f.HEADERS, flags, stream_id, first)
    for number, piece in enumerate(rest, 1):
        made += frame(f.CONTINUATION, f.END_HEADERS if number == len(rest) else 0, stream_id, piece)
    return made


NOISE = [
    frame(f.PING, 0, 0, bytes(8)),
    frame(f.PRIORITY, 0, 7, bytes(5)),
    frame(0x42, 0xFF, 0, b"of an extension"),
    f.window_update(0, 100),
    f.settings((f.MAX_FRAME_SIZE, 20_000)),
]


@st.composite
def conversations(draw: st.DrawFn) -> Sent:
    made = Sent()
    stream_id = 1
    for _ in range(draw(st.integers(1, 6))):
        stream_id += 2 * draw(st.integers(1, 3))
        body = draw(bodies)
        fields = headers(ECHO, *draw(extra_headers))
        made.expected[stream_id] = body
        if draw(st.booleans()):
            made.sent += call(stream_id, body[:16_000], ECHO, *draw(extra_headers))
            made.expected[stream_id] = body[:16_000]
        else:
            made.sent += opening(draw, stream_id, fields) + upload(draw, stream_id, body)
        made.sent += draw(st.sampled_from([b"", *NOISE]))
    return made


def open_wide(wire: Wire) -> Wire:
    """A peer whose windows hold nothing up."""
    wire.hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 2**31 - 1)) + f.window_update(0, 2**30))
    return wire


@FAST
@given(conversations(), st.data())
def test_however_it_is_cut_it_means_the_same(conversation: Sent, choices: st.DataObject) -> None:
    wire = open_wide(Wire())
    wire.feed(*cut(choices.draw, conversation.sent, 12))  # type: ignore[arg-type]

    found = wire.answers
    assert {number: found[number].message for number in conversation.expected} == conversation.expected
    assert not wire.is_over()


def expect_order(wire: Wire) -> None:
    """What was sent are whole frames, each stream's in their order, and nothing behind the GOAWAY that ends it."""
    found = wire.frames
    answers(found)
    endings = [number for number, one in enumerate(found, 1) if one.kind == f.GOAWAY and one.code != f.NO_ERROR]
    drained = wire.connection._streams.closing  # of a client that used the last numbers
    assert endings in ([], [len(found)])
    assert wire.is_over() if endings else drained or not wire.is_over()


def expect_bounds(wire: Wire) -> None:
    streams = wire.connection._streams
    assert len(wire.connection._rest) < f.DEFAULT_FRAME + f.HEAD_BYTES
    assert len(streams._receiving) + len(streams._running) + len(wire.connection._out.blocked) <= limits.MAX_STREAMS
    held = sum(len(stream.upload._body) for stream in streams._receiving.values() if stream.upload)
    assert held <= limits.MAX_STREAMS * limits.STREAM_WINDOW + limits.LARGE_MESSAGES


def expect_an_end(wire: Wire) -> None:
    """Once the peer falls silent: whatever was begun is answered, or the connection ended."""
    wire.tick(limits.STALL_S + 1)
    wire.tick(limits.STALL_S + 1)
    if wire.is_over():
        return
    assert not wire.connection._streams._receiving
    assert wire.connection._rest == b""
    assert wire.connection._block is None


def mutated(draw: st.DrawFn, sent: bytes) -> bytes:
    """A few bytes changed, left out, said twice, put in."""
    found = bytearray(sent)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        match draw(st.sampled_from(["bit", "byte", "out", "twice", "in"])):
            case "bit" if found:
                found[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if found:
                found[at] = draw(st.integers(0, 255))
            case "out":
                del found[at : at + draw(st.integers(1, 20))]
            case "twice":
                found[at:at] = found[at : at + draw(st.integers(1, 60))]
            case _:
                found[at:at] = draw(st.binary(min_size=1, max_size=10))
    return bytes(found)


@FAST
@given(st.data())
def test_a_conversation_gone_wrong_ends_in_order(choices: st.DataObject) -> None:
    draw = choices.draw
    wire = Wire()
    sent = HELLO + frame(f.HEADERS, f.END_HEADERS, 1, b"\x20" + block(headers())) + data(1, message())
    sent += draw(conversations()).sent
    wire.feed(*cut(draw, mutated(draw, sent), 6))  # type: ignore[arg-type]

    expect_order(wire)
    expect_bounds(wire)
    expect_an_end(wire)
    expect_order(wire)


@FAST
@given(st.lists(st.binary(max_size=100), max_size=20), st.booleans())
def test_any_bytes_end_in_order(pieces: list[bytes], greeted: bool) -> None:
    wire = Wire()
    if greeted:
        wire.hello()
    wire.feed(*pieces)

    expect_order(wire)
    expect_bounds(wire)
    expect_an_end(wire)
    expect_order(wire)


some_frames = st.tuples(
    st.integers(0, 10),
    st.sampled_from([0, 1, 4, 5, 8, 9, 0x20, 0x24, 0x25, 0x2D, 0xFF]),
    st.sampled_from([0, 1, 2, 3, 3, 3, 5, 5, 7, 9, 2**31 - 1]),
    st.binary(max_size=12) | st.sampled_from([bytes(4), bytes(8), message(), block(headers()), block(headers(WAIT))]),
).map(lambda parts: frame(*parts))


@FAST
@given(st.lists(some_frames, max_size=30))
def test_any_frames_end_in_order(found: list[bytes]) -> None:
    wire = Wire().hello()
    wire.feed(*found)

    expect_order(wire)
    expect_bounds(wire)
    expect_an_end(wire)
    expect_order(wire)


# Header blocks


PSEUDO = [":method", ":path", ":scheme", ":authority", ":status"]
READ = ["content-type", "content-length", "te", "grpc-timeout", "grpc-encoding"]
REFUSED = ["connection", "upgrade", "X-Upper", "a:b"]
known_names = st.sampled_from([*PSEUDO, *READ, *REFUSED, "user-agent", "accept", "cookie", "x-other"])
names = (known_names | st.text(max_size=20)).map(lambda name: name.encode("utf-8", "surrogatepass"))
values = st.binary(max_size=200) | st.sampled_from([b"POST", b"/", b"trailers", b"application/grpc", b"12", b"1S", b""])
some_fields = st.lists(st.tuples(names, values, st.booleans()), max_size=12)


def attributes(head: Head) -> dict[str, object]:
    found = ["method", "path", "content_type", "timeout", "encoding", "content_length", "fault", "seen"]
    return {name: getattr(head, name) for name in found}


@FAST
@given(some_fields, st.booleans())
def test_a_block_says_what_was_encoded(fields: list[tuple[bytes, bytes, bool]], huffman: bool) -> None:
    """Read without state, and by the library's own decoder."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    coded = encoder.encode(fields, huffman=huffman)
    words = Words()
    head = decode(walk(coded, words), words)
    reference = _read_with(hpack.Decoder(), coded)

    assert attributes(head) == attributes(reference)
    assert attributes(decode(walk(coded, words), words)) == attributes(reference)  # by what it remembers, too


@FAST
@given(st.lists(some_fields, min_size=1, max_size=5), st.lists(some_fields, min_size=1, max_size=3))
def test_a_table_is_followed_until_it_is_given_up(
    before: list[list[tuple[bytes, bytes, bool]]], behind: list[list[tuple[bytes, bytes, bool]]]
) -> None:
    encoder = hpack.Encoder()
    reference = hpack.Decoder()
    reader = BlockReader(Words())

    def check(fields: list[tuple[bytes, bytes, bool]]) -> None:
        coded = encoder.encode(fields)
        assert attributes(reader.read(coded)) == attributes(_read_with(reference, coded))

    for fields in before:
        check(fields)
    reader.acknowledged()
    encoder.header_table_size = 0
    for fields in behind:
        check(fields)
    assert reader.stateless


@st.composite
def raw_blocks(draw: st.DrawFn) -> bytes:
    """Anything, or something that was a block."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=60))
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return mutated(draw, encoder.encode(draw(some_fields), huffman=draw(st.booleans())))


@FAST
@given(raw_blocks())
def test_no_bytes_are_read_otherwise_than_by_the_library(raw: bytes) -> None:
    """Where both can read them; we do not look at all values, hpack takes tables and numbers of more bytes."""
    words = Words()
    reference = hpack.Decoder()
    reference.header_table_size = 0
    reference.max_allowed_table_size = 0
    try:
        head = decode(walk(raw, words), words)
        theirs = _read_with(reference, raw)
    except ProtocolError:
        return
    assert attributes(head) == attributes(theirs)


# Peers and handlers, in any order


class Exchange(RuleBasedStateMachine):
    """A model of the peer's windows and of what each call has to come to."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire()
        self.next_id = 3
        self.window = f.DEFAULT_WINDOW
        self.initial = f.DEFAULT_WINDOW
        self.windows: dict[int, int] = {}
        self.expected: dict[int, bytes] = {}
        self.waiting: dict[int, bytes] = {}

    @initialize()
    def greet(self) -> None:
        self.wire.hello()
        self.window -= len(message())

    def see(self, found: list[Frame]) -> None:
        """What came fits the windows as they are."""
        for one in found:
            if one.kind == f.DATA:
                size = len(one.payload)
                assert size <= self.window
                assert size <= self.windows[one.stream_id]
                self.window -= size
                self.windows[one.stream_id] -= size

    def ask(self, path: str, body: bytes) -> int:
        stream_id = self.next_id
        self.next_id += 2
        self.windows[stream_id] = self.initial
        self.expected[stream_id] = body
        self.see(self.wire.feed(call(stream_id, body, path)))
        return stream_id

    @rule(size=st.integers(0, 12_000))
    def echo(self, size: int) -> None:
        self.ask(ECHO, b"x" * size)

    @rule(size=st.integers(0, 12_000))
    def wait(self, size: int) -> None:
        asked = b"%d" % self.next_id
        self.waiting[self.ask(WAIT, asked)] = asked
        self.expected[self.next_id - 2] = b"y" * size

    @precondition(lambda self: self.waiting)
    @rule(choices=st.data())
    def finish(self, choices: st.DataObject) -> None:
        stream_id = choices.draw(st.sampled_from(sorted(self.waiting)))
        self.wire.handlers.waiting[self.waiting.pop(stream_id)].set_result(self.expected[stream_id])
        self.wire.loop.run()
        self.see(self.wire.new())

    @precondition(lambda self: self.expected)
    @rule(choices=st.data())
    def take_back(self, choices: st.DataObject) -> None:
        stream_id = choices.draw(st.sampled_from(sorted(self.expected)))
        self.see(self.wire.feed(f.rst_stream(stream_id, f.CANCEL)))
        self.expected.pop(stream_id)
        self.waiting.pop(stream_id, None)

    @rule(increment=st.integers(1, 30_000))
    def widen(self, increment: int) -> None:
        self.window += increment
        self.see(self.wire.feed(f.window_update(0, increment)))

    @precondition(lambda self: self.expected)
    @rule(increment=st.integers(1, 30_000), choices=st.data())
    def widen_stream(self, increment: int, choices: st.DataObject) -> None:
        stream_id = choices.draw(st.sampled_from(sorted(self.expected)))
        self.windows[stream_id] += increment
        self.see(self.wire.feed(f.window_update(stream_id, increment)))

    @rule(size=st.integers(0, 20_000))
    def set_window(self, size: int) -> None:
        for stream_id in self.windows:
            self.windows[stream_id] += size - self.initial
        self.initial = size
        self.see(self.wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, size))))

    @rule()
    def stick(self) -> None:
        if not self.wire.transport._paused:
            self.wire.transport._paused = True
            self.wire.connection.pause_writing()

    @rule()
    def unstick(self) -> None:
        self.wire.transport.read_all()
        self.wire.loop.run()
        self.see(self.wire.new())

    @invariant()
    def lives(self) -> None:
        assert not self.wire.is_over()

    def teardown(self) -> None:
        self.unstick()
        self.set_window(2**20)
        self.widen(2**30)
        for stream_id, asked in self.waiting.items():
            self.wire.handlers.waiting[asked].set_result(self.expected[stream_id])
        self.wire.loop.run()
        found = self.wire.answers
        for stream_id, expected in self.expected.items():
            assert found.get(stream_id, Answer()).ended, stream_id
            assert found[stream_id].status == 0
            assert found[stream_id].message == expected
        assert self.wire.connection._streams.is_empty
        assert not self.wire.connection._streams._leaving


TestExchange = Exchange.TestCase
TestExchange.settings = settings(FAST, max_examples=60, stateful_step_count=40)


# Many


def test_a_million_streams_on_one_connection() -> None:
    """A few seconds. Each is answered, and nothing is left of them."""
    many, together = 1_000_000, 64
    wire = Wire()
    begun = 0

    async def canned(_: bytes) -> bytes:
        nonlocal begun
        begun += 1
        return b"answered"

    wire = Wire(more={"Canned": canned}).hello()
    wire.feed(f.settings((f.INITIAL_WINDOW_SIZE, 2**31 - 1)))
    coded = block(headers(f"/{SERVICE}/Canned"))
    body = message(b"asked")
    widened = f.window_update(0, together * len(message(b"answered")))
    wire.transport.written.clear()
    written = 0
    for first in range(3, 3 + 2 * many, 2 * together):
        pieces = [widened]
        for stream_id in range(first, first + 2 * together, 2):
            pieces += (frame(f.HEADERS, f.END_HEADERS, stream_id, coded), data(stream_id, body))
        wire.connection.data_received(b"".join(pieces))
        written += sum(map(len, wire.transport.written))
        wire.transport.written.clear()

    one = len(
        frame(f.HEADERS, 0, 1, messages.ANSWER) + data(1, message(b"answered")) + frame(f.HEADERS, 0, 1, messages.OK)
    )
    updates = many * len(body) // (limits.CONNECTION_WINDOW // 2)
    assert begun == many
    assert written == many * one + updates * len(widened)
    assert not wire.is_over()
    assert wire.connection._streams.is_empty
