"""Messages that come in several frames: put together, and held within bounds."""

from collections import deque
from typing import Final

from authz.adapters.http2.limits import STREAM_WINDOW
from authz.adapters.http2.messages import (
    MANY_MESSAGES,
    NO_MESSAGE,
    PREFIX,
    PREFIX_BYTES,
    SHORT_MESSAGE,
    Opening,
    message_refusal,
)


_PADDING: Final = 256  # of a frame, its length included


class Upload:
    """A message as it comes, and what the peer may still send of it."""

    def __init__(self, stream_id: int, opening: Opening, window: int, largest: int, now_s: float) -> None:
        self.stream_id = stream_id
        self.window = window  # bytes that the peer may send
        self.begun_s = now_s
        self.reserved = 0  # of the connection's room for large messages
        self.waits = False  # for that room
        self._opening = opening
        self._largest = largest  # bytes that a message may have
        self._body = bytearray()
        self._size = -1  # of the message with its prefix; -1: not known yet
        self._received = 0  # bytes of payload

    def take(self, chunk: bytes) -> bytes:
        """The next bytes. The block to refuse the call with, or empty."""
        self._received += len(chunk)
        self._body += chunk
        if self._size < 0 and len(self._body) >= PREFIX_BYTES:
            flag, size = PREFIX.unpack_from(self._body)
            refused = message_refusal(flag, size, self._largest, self._opening)
            if refused:
                return refused
            self._size = size + PREFIX_BYTES
        return MANY_MESSAGES if 0 <= self._size < len(self._body) else b""

    def breaks_length(self, *, ended: bool) -> bool:
        """Whether the payload is not, or can no longer be, as long as content-length says."""
        length = self._opening.content_length
        return length >= 0 and (self._received > length or (ended and self._received < length))

    def end_refusal(self) -> bytes:
        """The block to refuse it with if nothing more comes; empty: the message is whole."""
        if not self._body:
            return NO_MESSAGE
        return SHORT_MESSAGE if len(self._body) != self._size else b""

    def message(self) -> bytes:
        """Of a whole one; it is not kept here."""
        message = bytes(memoryview(self._body)[PREFIX_BYTES:])
        self._body = bytearray()
        return message

    def missing_window(self) -> int:
        """Bytes that the peer has to be allowed before it can send the rest of the message, in a padded frame too."""
        rest = self._size - len(self._body) if self._size >= 0 else 0
        return max(0, rest + _PADDING - self.window)

    @property
    def large(self) -> int:
        """The message's size where it takes room that not every stream can have; 0 where it does not."""
        return self._size if self._size > STREAM_WINDOW else 0


class Room:
    """Bytes of large messages that one connection holds at a time, the handlers' included; who finds none waits."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._waiting: deque[Upload] = deque()

    def enter(self, upload: Upload) -> bool:
        """Whether there is room for it now; else it waits in turn."""
        if upload.reserved:
            return True
        if upload.waits:
            return False
        if self._waiting or upload.large > self._free:
            upload.waits = True
            self._waiting.append(upload)
            return False
        self._give(upload)
        return True

    def leave(self, upload: Upload) -> list[Upload]:
        """It is over. Those who found room by that."""
        self._free += upload.reserved
        upload.reserved = 0
        if upload.waits:
            self._waiting.remove(upload)
        entered: list[Upload] = []
        while self._waiting and self._waiting[0].large <= self._free:
            first = self._waiting.popleft()
            first.waits = False
            self._give(first)
            entered.append(first)
        return entered

    def _give(self, upload: Upload) -> None:
        upload.reserved = upload.large
        self._free -= upload.reserved
