"""What this server gives a peer: streams, bytes, time, and frames that ask for nothing."""

from typing import Final


MAX_CONNECTIONS: Final = 256  # a proxy has one for each of its workers, and another where MAX_STREAMS are in use
MAX_STREAMS: Final = 1024  # under way on one connection, those included whose handlers are still being cancelled

STREAM_WINDOW: Final = 16_384  # of a message, sent unasked; more is asked for once its length is known
CONNECTION_WINDOW: Final = 2**24  # never holds anybody up: memory is bounded by the streams' windows
LARGE_MESSAGES: Final = 8 * 2**20  # bytes of messages beyond STREAM_WINDOW, at a time on one connection

MAX_HEADER_LIST: Final = 16_384  # advertised; a call with more is refused
MAX_BLOCK: Final = 65_536  # bytes of a header block; with more the connection ends
MAX_CONTINUATIONS: Final = 16
MAX_SETTINGS: Final = 32  # in one frame

WRITE_BUFFER: Final = 256 * 1024  # of a connection; beyond it we read no more until the peer has read
MAX_FORGIVEN: Final = 2 * MAX_STREAMS  # streams that we ended early, on which frames may still be on their way

PATIENCE_S: Final = 10.0  # for the rest of the preface, of a frame, of a header block, and for the ack of our SETTINGS
STALL_S: Final = 30.0  # for the rest of a message, and for a peer that does not read its answers
DRAIN_PING_S: Final = 0.5  # between the first GOAWAY and the last, where the peer's PING does not come back
LINGER_S: Final = 1.0  # for the peer to hang up after the last GOAWAY: closed at once, it might not see it
TICK_S: Final = 1.0

# Frames that ask for no call: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown ones, DATA with next to nothing in it.
CONTROL_BURST: Final = 4096
CONTROL_PER_S: Final = 1000.0
CONTROL_PER_CALL: Final = 8.0  # Go's client pings as often as data comes, and updates windows
SMALL_DATA: Final = 64  # bytes; fewer, in a frame that is not a message's last, count as such a frame
# Calls that the peer takes back, or that are ended for its mistakes. All that wait may be taken back at once when the
# store hangs; what may go on for long is half of the calls, and what costs us one hundredth of a core.
RESET_BURST: Final = 4 * MAX_STREAMS
RESET_PER_S: Final = 1000.0
RESET_PER_CALL: Final = 0.5


class Allowance:
    """Frames of one sort that a peer may send: a burst, then so many a second and for each call. A token bucket."""

    def __init__(self, burst: float, per_s: float, per_call: float, now_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._per_call = per_call
        self._left = burst
        self._at_s = now_s
        self._calls = 0

    def spend(self, now_s: float, calls: int) -> bool:
        """One more, after *calls* calls in all. False: that was one too many."""
        earned = (now_s - self._at_s) * self._per_s + (calls - self._calls) * self._per_call
        self._left = min(self._burst, self._left + earned) - 1.0
        self._at_s = now_s
        self._calls = calls
        return self._left >= 0.0
