"""A service that records what its doors hand it, over the real descriptor of KeyService or any other."""

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message_factory import GetMessageClass

from authz.adapters.rpc import Call, Message
from authz.core.headers import Header
from authz.pb.authz.admin.v1 import keys_pb2


KEY_SERVICE: Any = keys_pb2.DESCRIPTOR.services_by_name["KeyService"]


@dataclass
class Recording:
    """
    `refuse` is raised where the caller is asked for, `fail` by the method; else it answers as `answers` says. `shows`:
    headers for whoever is let in. `looks`: how often that was asked once more.
    """

    descriptor: Any = KEY_SERVICE
    refuse: Exception | None = None
    fail: Exception | None = None
    shows: tuple[Header, ...] = ()
    answers: dict[str, Message] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    looks: int = 0
    requests: list[Message] = field(default_factory=list)

    async def authorize(self, call: Call) -> str:
        if call.looks:
            self.looks += 1
            return "ada"
        self.calls.append(call)
        if self.refuse is not None:
            raise self.refuse
        call.shown.extend(self.shows)
        return "ada"

    async def handle(self, call: Call, actor: str, request: Message) -> Message:
        assert (call, actor) == (self.calls[-1], "ada")
        self.requests.append(request)
        if self.fail is not None:
            raise self.fail
        answer = GetMessageClass(self.descriptor.methods_by_name[call.method].output_type)()
        return self.answers.get(call.method, answer)
