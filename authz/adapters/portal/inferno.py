"""The portal of inferno: logging in, and keys with permissions, which are scopes."""

from typing import Final

from authz.adapters.door import Door, refusing, timestamp
from authz.adapters.portal.portal import Portal
from authz.adapters.rpc import Call, Message
from authz.admin.actor import Actor
from authz.admin.keys import KeyAdmin, KeyRequestError, NewKey
from authz.admin.users import Login
from authz.core.keyrecord import KeyRecord
from authz.pb.authz.portal.v1 import inferno_pb2


DESCRIPTOR: Final = inferno_pb2.DESCRIPTOR.services_by_name["InfernoPortal"]
PATH: Final = "/api/v1/auth"  # at and below which it is served
SCOPE: Final = "manage_users"  # that its door asks for
OPEN: Final = "Login"  # to those who have no credential yet
_DAY_S: Final = 86_400


class InfernoPortal(Portal):
    descriptor = DESCRIPTOR
    methods = {"CreateApiKey": "_create", "DeleteApiKey": "_delete"}  # noqa: RUF012
    fields = {"scopes": "permissions", "expires_in": "expires_in_days"}  # noqa: RUF012

    def __init__(self, door: Door, keys: KeyAdmin, login: Login) -> None:
        super().__init__(door, keys)
        self._login = login

    async def authorize(self, call: Call) -> Actor:
        """Raises: RpcError."""
        return Actor("") if call.method == OPEN else await super().authorize(call)

    async def handle(self, call: Call, actor: Actor, request: Message) -> Message:
        """Raises: RpcError."""
        if call.method != OPEN:
            return await super().handle(call, actor, request)
        with refusing():
            session = await self._door.log_in(self._login, call, request.username, request.password)
            return inferno_pb2.InfernoLoginResponse(token=session.token, expires_at=timestamp(session.expires_at_us))

    async def _create(self, request: Message, actor: Actor) -> Message:
        if not request.permissions:
            raise KeyRequestError("scopes", "is required")
        lifetime_s = request.expires_in_days * _DAY_S if request.HasField("expires_in_days") else None
        new = NewKey(request.name, scopes=tuple(request.permissions), lifetime_s=lifetime_s)
        made = await self._keys.create(new, actor)
        return inferno_pb2.InfernoApiKey(
            id=made.record.id,
            name=made.record.name,
            key=made.token,
            permissions=made.record.scopes,
            created_at=timestamp(made.record.created_at_us),
            expires_at=timestamp(made.record.expires_at_us),
        )

    def _check_deletion(self, record: KeyRecord, actor: Actor) -> None:
        """Managing users is a permission among others here, and not above them: the admin's keys are not its to end."""
        actor.check_grant(record.scopes, self._keys.scopes)
