"""
A service as its doors see it: gRPC and REST carry the same methods, the same messages and the same refusals.

Knows neither door, nor what the methods do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from authz.core.headers import Header
from authz.core.problems import Problem


Message = Any  # a protobuf message: upb's classes are made at run time
ActorT = TypeVar("ActorT")


@dataclass(frozen=True, slots=True)
class Call:
    """
    What a door knows of a call before its message is read.

    Args:
        method: Of the service: `CreateKey`.
        headers: Or gRPC metadata: lower-case names, repeated ones joined by commas. Held out of `repr`: they hold keys.
        peer: The address of whoever is connected; empty for a Unix socket.
        query: Of the URL, without the question mark.
        shown: Headers of the answer, whatever it will be: whoever lets the caller in puts them there. For REST alone.
        looks: Who calls is asked once more, as the message is in only now: nothing is spent, and nothing shown again.
    """

    method: str
    headers: Mapping[str, str] = field(repr=False)
    peer: str = ""
    query: str = field(default="", repr=False)
    shown: list[Header] = field(default_factory=list, compare=False)
    looks: bool = field(default=False, compare=False)


class RpcError(Exception):
    """A call is refused: what the caller is told, whatever the door."""

    def __init__(self, problem: Problem, headers: Sequence[Header] = ()) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.headers = tuple(headers)


class Service(Protocol, Generic[ActorT]):
    """*ActorT*: who calls, as the service tells it to itself."""

    @property
    def descriptor(self) -> Any:
        """The service's protobuf descriptor."""
        ...

    async def authorize(self, call: Call) -> ActorT:
        """Who calls, once that is proven; asked before anything of the message is read. Raises: RpcError."""
        ...

    async def handle(self, call: Call, actor: ActorT, request: Message) -> Message:
        """Raises: RpcError."""
        ...


class Replaceable(Generic[ActorT]):
    """A service that can be replaced by another of the same kind while its doors are open."""

    def __init__(self, service: Service[ActorT]) -> None:
        self._service = service

    def replace(self, service: Service[ActorT]) -> None:
        """From the next call on."""
        self._service = service

    @property
    def descriptor(self) -> Any:
        return self._service.descriptor

    async def authorize(self, call: Call) -> ActorT:
        return await self._service.authorize(call)

    async def handle(self, call: Call, actor: ActorT, request: Message) -> Message:
        return await self._service.handle(call, actor, request)
