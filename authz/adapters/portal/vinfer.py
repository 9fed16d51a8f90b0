"""The portal of vinfer: the keys of a workspace, each with one scope."""

from typing import Final

from authz.adapters.door import timestamp
from authz.adapters.portal.portal import Portal
from authz.adapters.rpc import Message
from authz.admin.actor import Actor
from authz.admin.keys import KeyRequestError, NewKey
from authz.pb.authz.portal.v1 import vinfer_pb2


DESCRIPTOR: Final = vinfer_pb2.DESCRIPTOR.services_by_name["VinferPortal"]
PATH: Final = "/v1/api-keys"  # at and below which it is served


class VinferPortal(Portal):
    descriptor = DESCRIPTOR
    methods = {"CreateApiKey": "_create", "ListApiKeys": "_list", "DeleteApiKey": "_delete"}  # noqa: RUF012
    fields = {"scopes": "scope"}  # noqa: RUF012

    async def _create(self, request: Message, actor: Actor) -> Message:
        if not request.scope:
            raise KeyRequestError("scopes", "is required")
        made = await self._keys.create(NewKey(request.name, scopes=(request.scope,)), actor)
        return vinfer_pb2.CreatedVinferApiKey(
            id=made.record.id,
            name=made.record.name,
            key=made.token,
            scope=request.scope,
            created_at=timestamp(made.record.created_at_us),
        )

    async def _list(self, request: Message, actor: Actor) -> Message:
        page = await self._page(request, actor)
        shown = [
            vinfer_pb2.VinferApiKey(
                id=record.id,
                name=record.name,
                prefix=record.prefix,
                scope=" ".join(record.scopes),
                created_at=timestamp(record.created_at_us),
                last_used_at=timestamp(record.last_used_at_us),
            )
            for record in page.records
        ]
        return vinfer_pb2.ListVinferApiKeysResponse(api_keys=shown, next_page_token=page.next_token)
