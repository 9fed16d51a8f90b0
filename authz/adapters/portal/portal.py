"""What the portals have in common: who calls, the words of their refusals, and the keys that they see."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final

from google.protobuf.empty_pb2 import Empty

from authz.adapters.door import Door, page_size, refusing
from authz.adapters.rpc import Call, Message
from authz.admin.actor import Actor
from authz.admin.keys import KeyAdmin, NoSuchKeyError
from authz.core.keyrecord import KeyRecord, KeyState
from authz.core.listing import Filter
from authz.ports import KeyPage


DELETED: Final = "deleted in the portal"  # the reason of a revocation


class Portal:
    """
    Implements `adapters.rpc.Service`. What is deleted is revoked; what is revoked or expired is not there any more.

    Attributes:
        methods: The name of each method of the service, and of ours that does it.
        fields: What this portal calls a field of the use cases, where that is another name.
    """

    descriptor: ClassVar[Any]
    methods: ClassVar[Mapping[str, str]]
    fields: ClassVar[Mapping[str, str]] = {}

    def __init__(self, door: Door, keys: KeyAdmin) -> None:
        self._door = door
        self._keys = keys

    async def authorize(self, call: Call) -> Actor:
        """Raises: RpcError."""
        return await self._door.admit(call)

    async def handle(self, call: Call, actor: Actor, request: Message) -> Message:
        """Raises: RpcError."""
        with refusing(self.fields):
            method: Callable[[Any, Actor], Awaitable[Message]] = getattr(self, self.methods[call.method])
            return await method(request, actor)

    async def _living(self, key: str, actor: Actor) -> KeyRecord:
        """By id or display prefix. Raises: NoSuchKeyError; StoreFault."""
        record = await self._keys.show(key, actor)
        if record.state(await self._keys.registry.now_us()) is not KeyState.ACTIVE:
            raise NoSuchKeyError(key)
        return record

    async def _page(self, request: Any, actor: Actor) -> KeyPage:
        """Raises: KeyRequestError; BadPageTokenError; StoreFault."""
        wanted = Filter({"state": KeyState.ACTIVE.value})
        return await self._keys.page(wanted, page_size(request.page_size), request.page_token, actor)

    async def _delete(self, request: Message, actor: Actor) -> Message:
        """Nothing but a key that the actor sees. Raises: NoSuchKeyError; ForbiddenError; StoreFault."""
        record = await self._keys.show(self._named(request), actor)
        self._check_deletion(record, actor)
        await self._keys.revoke(record.id, DELETED, actor)
        return Empty()

    def _check_deletion(self, record: KeyRecord, actor: Actor) -> None:
        """Whether the actor may delete what it sees: here always. Raises: ForbiddenError."""

    def _named(self, request: Message) -> str:
        """The id or display prefix of the key that *request* is about."""
        return str(request.id)
