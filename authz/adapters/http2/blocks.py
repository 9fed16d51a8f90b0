"""
Header blocks (HPACK, RFC 7541), read without any state.

We advertise a dynamic table of no bytes. Until the peer has acknowledged that, its blocks may use a table of the
default size, and are read by hpack's decoder. From then on a block means the same whatever came before it: it is
walked, and what this server reads of it is decoded, which is little. So headers that are different in each call (a
trace's) cost next to nothing. The values of headers that are not read are not looked at, be they well-formed or not:
they go nowhere.
"""

import logging
import re
from typing import Final, TypeVar

import hpack

from authz.adapters.http2.frames import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ProtocolError
from authz.adapters.http2.limits import MAX_HEADER_LIST


# Kinds of header. The pseudo-headers of a request come first.
METHOD: Final = 0
SCHEME: Final = 1
PATH: Final = 2
AUTHORITY: Final = 3
CONTENT_TYPE: Final = 4
CONTENT_LENGTH: Final = 5
GRPC_TIMEOUT: Final = 6
GRPC_ENCODING: Final = 7
TE: Final = 8
FORBIDDEN: Final = 9  # connection-specific, or not a name at all
OTHER: Final = 10  # not read
MISPLACED: Final = 11  # a pseudo-header behind a header
TOO_LARGE: Final = 12  # not a header: with it, the list is larger than we take

Field = tuple[int, bytes]  # a kind, and a value as it was coded, with its length

NAMES: Final = {
    b":method": METHOD,
    b":scheme": SCHEME,
    b":path": PATH,
    b":authority": AUTHORITY,
    b"content-type": CONTENT_TYPE,
    b"content-length": CONTENT_LENGTH,
    b"grpc-timeout": GRPC_TIMEOUT,
    b"grpc-encoding": GRPC_ENCODING,
    b"te": TE,
    b"connection": FORBIDDEN,
    b"keep-alive": FORBIDDEN,
    b"proxy-connection": FORBIDDEN,
    b"transfer-encoding": FORBIDDEN,
    b"upgrade": FORBIDDEN,
}
REQUEST: Final = 1 << METHOD | 1 << SCHEME | 1 << PATH
ONCE: Final = REQUEST | 1 << AUTHORITY | 1 << CONTENT_TYPE | 1 << GRPC_TIMEOUT | 1 << GRPC_ENCODING

K = TypeVar("K")
V = TypeVar("V")

_NAME: Final = re.compile(rb"[!-9;-@\[-~]+\Z")  # RFC 9113, 8.2.1: no control, no space, no upper case, no colon
_BAD_VALUE: Final = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")
_STATIC_ENTRIES: Final = 61
_FIELD_OVERHEAD: Final = 32  # of each field, in the size of a header list
_MOST_FIELDS: Final = MAX_HEADER_LIST // _FIELD_OVERHEAD
_MEMO: Final = 1024
_MEMO_BYTES: Final = 128  # longer strings are not remembered

# It logs every header, values too.
logging.getLogger("hpack").setLevel(logging.CRITICAL)


class Head:
    """What a header block says, as far as this server reads it. *fault*: why it is malformed; empty: it is not."""

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.content_type = b""
        self.timeout = b""
        self.encoding = b""
        self.content_length = -1
        self.fault = ""
        self.seen = 0  # the kinds that were there, as bits

    @property
    def is_too_large(self) -> bool:
        return self.seen & 1 << TOO_LARGE != 0

    def take(self, kind: int, value: bytes) -> None:
        """The next field, of a kind that is read."""
        bit = 1 << kind
        if self.seen & bit & ONCE:
            self.fault = "a header that may stand once stands twice"
        if _BAD_VALUE.search(value) is not None:
            self.fault = "a value has a character that it may not have"
        if kind == TE and value != b"trailers":
            self.fault = "te may only say trailers"
        if kind == FORBIDDEN:
            self.fault = "a header is not one of HTTP/2"
        if kind == MISPLACED:
            self.fault = "a pseudo-header stands behind a header"
        self.seen |= bit
        self._keep(kind, value)

    def _keep(self, kind: int, value: bytes) -> None:
        if kind == PATH:
            self.path = value
        elif kind == METHOD:
            self.method = value
        elif kind == CONTENT_TYPE:
            self.content_type = value
        elif kind == GRPC_TIMEOUT:
            self.timeout = value
        elif kind == GRPC_ENCODING:
            self.encoding = value
        elif kind == CONTENT_LENGTH:
            self._take_length(value)

    def _take_length(self, value: bytes) -> None:
        if not value.isdigit() or len(value) > 15:
            self.fault = "content-length is not a number"
            return
        length = int(value)
        if self.content_length not in {-1, length}:
            self.fault = "content-length stands twice"
        self.content_length = length

    def request_fault(self) -> str:
        """Why it cannot open a stream; empty: it can."""
        if self.fault:
            return self.fault
        if self.method == b"CONNECT":
            return "" if self.seen & REQUEST == 1 << METHOD else "CONNECT has neither scheme nor path"
        if self.seen & REQUEST != REQUEST:
            return "a pseudo-header is missing"
        return "" if self.path else "the path is empty"

    def trailers_fault(self) -> str:
        """Why it cannot end a request; empty: it can."""
        return self.fault or ("a pseudo-header stands in trailers" if self.seen & (REQUEST | 1 << AUTHORITY) else "")


def remember(memo: dict[K, V], key: K, value: V, most: int) -> None:
    """Begun anew once it is full: what is used again is soon there again."""
    if len(memo) >= most:
        memo.clear()
    memo[key] = value


class Words:
    """Decoded names and values, remembered by the bytes they came as. Of all connections: they depend on none."""

    def __init__(self) -> None:
        self._kinds: dict[bytes, int] = {}
        self._values: dict[bytes, bytes] = {}
        self._decoder = hpack.Decoder()

    def kind(self, coded: bytes) -> int:
        """Of a name. *coded*: with its length."""
        known = self._kinds.get(coded)
        if known is not None:
            return known
        kind = kind_of(self._decode(b"\x00" + coded + b"\x00")[0])
        if len(coded) <= _MEMO_BYTES:
            remember(self._kinds, coded, kind, _MEMO)
        return kind

    def value(self, coded: bytes) -> bytes:
        """*coded*: with its length."""
        known = self._values.get(coded)
        if known is not None:
            return known
        value = self._decode(b"\x00\x01a" + coded)[1]
        if len(coded) <= _MEMO_BYTES:
            remember(self._values, coded, value, _MEMO)
        return value

    def _decode(self, field: bytes) -> tuple[bytes, bytes]:
        """A literal that is not indexed, so the decoder stays as it is."""
        return _decoded(self._decoder, field)[0]


class BlockReader:
    """The blocks of one connection, in their order. Raises: ProtocolError, with which the connection ends."""

    def __init__(self, words: Words) -> None:
        self._words = words
        self._decoder: hpack.Decoder | None = hpack.Decoder(max_header_list_size=MAX_HEADER_LIST)
        self._update_due = False

    @property
    def stateless(self) -> bool:
        """Whether the next block means what its bytes mean on any connection."""
        return self._decoder is None and not self._update_due

    def acknowledged(self) -> None:
        """The peer knows that there is no dynamic table: its next block has to say so (RFC 9113, 4.3.1)."""
        if self._decoder is not None:
            self._update_due = self._decoder.header_table_size > 0
            self._decoder = None

    def read(self, block: bytes) -> Head:
        if self._decoder is not None:
            return _read_with(self._decoder, block)
        if self._update_due:
            if block[:1] != b"\x20":
                raise ProtocolError(COMPRESSION_ERROR, "the dynamic table was not given up")
            self._update_due = False
        return decode(walk(block, self._words), self._words)


def kind_of(name: bytes) -> int:
    kind = NAMES.get(name)
    if kind is not None:
        return kind
    return OTHER if _NAME.match(name) else FORBIDDEN


def walk(block: bytes, words: Words) -> list[Field]:
    """The fields that are read, of a block that depends on no other. Raises: ProtocolError."""
    if len(block) > MAX_HEADER_LIST:
        return [(TOO_LARGE, _EMPTY)]
    try:
        return _walk(block, words)
    except IndexError as cut_short:
        raise ProtocolError(COMPRESSION_ERROR, "a header block ends too early") from cut_short


def _walk(block: bytes, words: Words) -> list[Field]:
    """Raises: ProtocolError; IndexError: it ends too early."""
    fields: list[Field] = []
    headers_begun = False
    count = 0
    end = len(block)
    at = end - len(block.lstrip(b"\x20"))  # the table has no bytes: that may be said again
    while at < end and count <= _MOST_FIELDS:
        first = block[at]
        at += 1
        count += 1
        if first >= 0x80:
            index = _static(first & 0x7F)
            kind = _STATIC_KINDS[index]
            value = _STATIC_VALUES[index]
        elif first & 0xE0 == 0x20:
            raise ProtocolError(COMPRESSION_ERROR, "a dynamic table may not come back")
        else:
            mask = 0x3F if first & 0x40 else 0x0F
            index = first & mask
            if index == mask:
                at, index = _integer(block, at, mask)
            if index:
                kind = _STATIC_KINDS[_static(index)]
            else:
                name_at = at
                at = _string_end(block, at)
                kind = words.kind(block[name_at:at])
            value_at = at
            at = _string_end(block, at)
            value = block[value_at:at]
        if kind <= AUTHORITY and headers_begun:
            kind = MISPLACED
        headers_begun = kind > AUTHORITY
        if kind != OTHER:
            fields.append((kind, value))
    if at > end:
        raise IndexError
    if end + count * _FIELD_OVERHEAD > MAX_HEADER_LIST:
        fields.append((TOO_LARGE, _EMPTY))
    return fields


def decode(fields: list[Field], words: Words) -> Head:
    """What `walk` found."""
    head = Head()
    for kind, coded in fields:
        head.take(kind, words.value(coded))
    return head


def _static(index: int) -> int:
    if index == 0 or index > _STATIC_ENTRIES:
        raise ProtocolError(COMPRESSION_ERROR, "a header refers to a table that is not there")
    return index


def _string_end(block: bytes, at: int) -> int:
    """Where the string that begins at *at* ends, perhaps behind the block's end. Raises: ProtocolError, IndexError."""
    length = block[at] & 0x7F
    at += 1
    if length == 0x7F:
        at, length = _integer(block, at, length)
    return at + length


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """Of several bytes, the first of them all ones (*prefix*): the place behind it, and its value."""
    value = prefix
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return at, value
        shift += 7
        if shift > 21:
            raise ProtocolError(COMPRESSION_ERROR, "a number in a header block is too large")


def _decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.OversizedHeaderListError as error:
        raise ProtocolError(ENHANCE_YOUR_CALM, "a header list is too large") from error
    except (hpack.HPACKError, IndexError) as error:
        raise ProtocolError(COMPRESSION_ERROR, "a header block cannot be read") from error


def _read_with(decoder: hpack.Decoder, block: bytes) -> Head:
    """A block that may depend on those before it."""
    head = Head()
    headers_begun = False
    for name, value in _decoded(decoder, block):
        kind = kind_of(name)
        if kind <= AUTHORITY and headers_begun:
            kind = MISPLACED
        headers_begun = kind > AUTHORITY
        if kind != OTHER:
            head.take(kind, value)
    return head


def _static_table() -> list[tuple[bytes, bytes]]:
    """Asked of the library entry by entry; 0 is none."""
    decoder = hpack.Decoder()
    return [(b"", b""), *(_decoded(decoder, bytes([0x80 | index]))[0] for index in range(1, _STATIC_ENTRIES + 1))]


_EMPTY: Final = b"\x00"  # as values are coded
_STATIC_KINDS: Final = [kind_of(name) for name, _ in _static_table()]
_STATIC_VALUES: Final = [bytes([len(value)]) + value for _, value in _static_table()]
