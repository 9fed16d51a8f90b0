"""The portal of inferexai: users who have logged in manage their own keys, and may see them again."""

from typing import Any, Final

from authz.adapters.door import timestamp
from authz.adapters.portal.portal import Portal
from authz.adapters.rpc import Message
from authz.admin.actor import Actor
from authz.admin.keys import IssuedKey, NewKey
from authz.pb.authz.portal.v1 import inferexai_pb2


DESCRIPTOR: Final = inferexai_pb2.DESCRIPTOR.services_by_name["InferexaiPortal"]
PATH: Final = "/portal"  # at and below which it is served
_HEX: Final = 8  # digits of a display prefix: a key's number


class InferexaiPortal(Portal):
    """Its `door` lets in sessions alone, each bound to the subject that it is."""

    descriptor = DESCRIPTOR
    methods = {"CreateKey": "_create", "ListKeys": "_list", "GetKey": "_get", "DeleteKey": "_delete"}  # noqa: RUF012

    async def _create(self, request: Message, actor: Actor) -> Message:
        return _key(await self._keys.create(NewKey(request.name, scopes=actor.scopes or ()), actor))

    async def _list(self, request: Message, actor: Actor) -> Message:
        page = await self._page(request, actor)
        shown = await self._keys.show_tokens(page.records, actor)
        return inferexai_pb2.ListInferexaiKeysResponse(
            keys=[_key(one) for one in shown], next_page_token=page.next_token
        )

    async def _get(self, request: Message, actor: Actor) -> Message:
        record = await self._living(self._named(request), actor)
        (shown,) = await self._keys.show_tokens([record], actor)
        return _key(shown)

    def _named(self, request: Message) -> str:
        """By its display prefix."""
        return f"{self._keys.prefix}{request.id:0{_HEX}x}"


def _key(issued: IssuedKey) -> Any:
    record = issued.record
    return inferexai_pb2.InferexaiKey(
        id=int(record.prefix[-_HEX:], 16),
        name=record.name,
        token=issued.token,
        prefix=record.prefix,
        created_at=timestamp(record.created_at_us),
    )
