"""The numbers of streams: which comes next, which were left out, which may still be spoken of (RFC 9113, 5.1)."""

from collections import deque

from authz.adapters.http2.frames import PROTOCOL_ERROR, STREAM_CLOSED, ProtocolError
from authz.adapters.http2.limits import MAX_FORGIVEN


_GAPS = 32


class Identifiers:
    """Of the streams that one peer opened."""

    def __init__(self) -> None:
        self.next = 1  # the lowest that may be opened
        self.opened = 0  # how many were
        self._gaps: deque[tuple[int, int]] = deque(maxlen=_GAPS)
        self._forgiven: dict[int, None] = {}

    @property
    def last(self) -> int:
        """The highest that was opened; 0: none was."""
        return max(0, self.next - 2)

    def is_idle(self, stream_id: int) -> bool:
        """Neither opened nor passed over. A client's numbers are odd, and we open no streams."""
        return stream_id >= self.next or stream_id & 1 == 0

    def open(self, stream_id: int) -> None:
        if stream_id > self.next:
            self._gaps.append((self.next, stream_id))
        self.next = stream_id + 2
        self.opened += 1

    def forgive(self, stream_id: int) -> None:
        """We ended it before the peer did: what the peer has sent by then is dropped, not held against it."""
        if len(self._forgiven) >= MAX_FORGIVEN:
            del self._forgiven[next(iter(self._forgiven))]
        self._forgiven[stream_id] = None

    def is_forgiven(self, stream_id: int) -> bool:
        return stream_id in self._forgiven

    def ended(self, stream_id: int) -> None:
        """The peer ended it too: nothing more may come."""
        self._forgiven.pop(stream_id, None)

    def reuse(self, stream_id: int) -> ProtocolError:
        """What headers on a stream are that is neither new nor open."""
        if any(low <= stream_id < high for low, high in self._gaps):
            return ProtocolError(PROTOCOL_ERROR, "a stream's number is lower than one before")
        return ProtocolError(STREAM_CLOSED, "headers on a closed stream")
