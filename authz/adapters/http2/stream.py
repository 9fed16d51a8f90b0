"""One stream: a call, its message as it comes, its answer as it goes."""

from asyncio import AbstractEventLoop
from typing import Final

from authz.adapters.http2.calls import Call
from authz.adapters.http2.messages import Opening
from authz.adapters.http2.uploads import Upload


NEVER: Final = float("inf")


class StreamOwner:
    """Whom a stream tells how its call ended: the connection."""

    def answered(self, stream: "Stream", answer: object) -> None:
        raise NotImplementedError

    def failed(self, stream: "Stream", error: BaseException) -> None:
        raise NotImplementedError


class Stream(Call):
    """
    Receives (open), then runs (half-closed by the peer), then sends what flow control held back. In which of the three
    it is, the connection keeps.
    """

    upload: Upload | None = None  # where the message does not come in one piece with its headers
    deadline_s: float = NEVER
    credit = 0  # what the peer added to this stream's window, less what was sent of it
    unsent: bytes = b""
    sent = 0  # bytes of `unsent`

    def __init__(self, owner: StreamOwner, loop: AbstractEventLoop, stream_id: int, opening: Opening) -> None:
        super().__init__(loop)
        self._owner = owner
        self.id = stream_id
        self.opening = opening

    def returned(self, answer: object) -> None:
        self._owner.answered(self, answer)

    def raised(self, error: BaseException) -> None:
        self._owner.failed(self, error)
