"""
A line to one server of the store: questions are written one behind the other on one connection, answers come in their
order. It is for scripts, which are most of what is asked: redis-py, which does everything else, takes a connection for
each question, and ten times the CPU.
"""

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import hiredis
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostConnectionError


CONNECT_S: Final = 1.0  # a server that does not take the connection; whoever waits for it may give up sooner
SCRIPT: Final = "EVALSHA"
_ERRORS: Final[dict[str, type[Exception]]] = {
    "NOSCRIPT": NoScriptError,
    "LOADING": BusyLoadingError,
    "NOAUTH": AuthenticationError,
    "WRONGPASS": AuthenticationError,
    "NOPERM": NoPermissionError,
}
_ELSEWHERE: Final = ("MOVED ", "ASK ", "TRYAGAIN ", "CLUSTERDOWN ")


class Commands(Protocol):
    """What we use of redis-py's clients."""

    async def execute_command(self, *args: Any, **options: Any) -> Any: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Server:
    """Where a line leads, and who we are there. *path*: of a Unix socket; empty: TCP."""

    host: str = ""
    port: int = 0
    path: str = ""
    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, client: Redis) -> "Server":
        """The one that *client* speaks to."""
        pool: Any = client.connection_pool
        told = pool.connection_kwargs
        context = getattr(pool.make_connection(), "ssl_context", None)
        return cls(
            host=told.get("host", ""),
            port=told.get("port", 0),
            path=told.get("path", ""),
            username=told.get("username") or "",
            password=told.get("password") or "",
            database=told.get("db") or 0,
            tls=context.get() if context is not None else None,
        )

    @property
    def greeting(self) -> list[bytes]:
        """Commands that must be answered by OK before anything else."""
        greeting = []
        if self.password:
            who = [self.username, self.password] if self.username else [self.password]
            greeting.append(packed("AUTH", *who))
        if self.database:
            greeting.append(packed("SELECT", self.database))
        return greeting


def packed(*args: Any) -> bytes:
    """A command on the wire (RESP)."""
    command: bytes = hiredis.pack_command(args)
    return command


class Line:
    """
    Implements `Commands`. Connects when it is used, and again when the connection was lost: a question whose answer was
    lost with it is asked once more. One that is given up ends the connection, so that nobody takes another's answer.
    *is_only*: there is nobody else to ask where the server does not take the connection.
    """

    def __init__(self, server: Server, *, is_only: bool) -> None:
        self._server = server
        self._is_only = is_only
        self._link: _Link | None = None
        self._connecting: asyncio.Task[_Link] | None = None

    async def execute_command(self, *args: Any, **_: Any) -> Any:
        """Raises: redis.exceptions.RedisError; OSError."""
        command = packed(*args)
        try:
            return await (self._living() or await self._connected()).ask(command)
        except BusyLoadingError:
            raise
        except LostConnectionError:
            return await (self._living() or await self._connected()).ask(command)

    async def aclose(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._link is not None:
            self._link.end()

    def _living(self) -> "_Link | None":
        return self._link if self._link is not None and self._link.is_open else None

    async def _connected(self) -> "_Link":
        """However many wait for it, one connection is made; whoever gives up does not end it."""
        while True:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(self._did_connect)
            try:
                return await asyncio.shield(self._connecting)
            except TimeoutError:  # the loop may have been late: who waits knows for how long
                if not self._is_only:
                    raise
                await asyncio.sleep(0)  # until `_did_connect` has been called

    async def _connect(self) -> "_Link":
        server, loop = self._server, asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            if server.path:
                _, link = await loop.create_unix_connection(_Link, server.path)
            else:
                _, link = await loop.create_connection(_Link, server.host, server.port, ssl=server.tls)
            try:
                for command in server.greeting:
                    await link.ask(command)
            except BaseException:
                link.end()
                raise
        self._link = link
        return link

    def _did_connect(self, task: "asyncio.Task[_Link]") -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # told to those who wait; if they are gone, nobody needs it


class _Link(asyncio.Protocol):
    """One connection. Few questions are under way at a time, so nothing is done where writing should pause."""

    def __init__(self) -> None:
        self.is_open = False
        self._transport: Any = None
        self._replies = hiredis.Reader()
        self._asked: deque[asyncio.Future[Any]] = deque()

    async def ask(self, command: bytes) -> Any:
        """Raises: redis.exceptions.RedisError."""
        if not self.is_open:
            raise LostConnectionError("the connection was lost")
        answer = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._transport.write(command)
        try:
            reply = await answer
        except asyncio.CancelledError:
            self.end()
            raise
        if isinstance(reply, hiredis.ReplyError):
            raise _error(str(reply))
        return reply

    def end(self) -> None:
        """At once; who waits for an answer is told that the connection was lost."""
        if self._transport is not None:
            self._transport.abort()
        self._lost()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not False:
                answer = self._asked.popleft()
                if not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):  # what no server of the store says
            self.end()

    def connection_lost(self, _: Exception | None) -> None:
        self._lost()

    def _lost(self) -> None:
        self.is_open = False
        while self._asked:
            answer = self._asked.popleft()
            if not answer.done():
                answer.set_exception(LostConnectionError("the connection was lost"))


def _error(told: str) -> Exception:
    """As redis-py raises it."""
    code, _, rest = told.partition(" ")
    return _ERRORS[code](rest) if code in _ERRORS else ResponseError(told)


class Lined:
    """Implements `Commands` for one server: scripts by a line, everything else by redis-py."""

    def __init__(self, client: Redis) -> None:
        self._client: Commands = client
        self._line = Line(Server.of(client), is_only=True)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == SCRIPT:
            return await self._line.execute_command(*args)
        return await self._client.execute_command(*args, **options)

    async def aclose(self) -> None:
        await self._line.aclose()
        await self._client.aclose()


class LinedCluster:
    """
    The same for a cluster, a line to each server: redis-py knows which has a slot. Where that server sends us
    elsewhere, or is gone, redis-py is asked: it finds out where the slot is now.
    """

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._lines: dict[str, Line] = {}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] == SCRIPT:
            try:
                return await (await self._line(args[3])).execute_command(*args)
            except ResponseError as error:
                if not str(error).startswith(_ELSEWHERE):
                    raise
            except (LostConnectionError, OSError):
                pass
        return await self._client.execute_command(*args, **options)

    async def _line(self, key: Any) -> Line:
        await self._client.initialize()
        node = self._client.get_node_from_key(key)
        if node is None:
            raise LostConnectionError("no server has this slot")
        if node.name not in self._lines:
            await self._forget_gone()
            told = self._client.connection_kwargs
            username, password = told.get("username") or "", told.get("password") or ""
            server = Server(str(node.host), int(node.port), username=username, password=password)
            self._lines[node.name] = Line(server, is_only=False)
        return self._lines[node.name]

    async def _forget_gone(self) -> None:
        names = {node.name for node in self._client.get_nodes()}
        for name in self._lines.keys() - names:
            await self._lines.pop(name).aclose()

    async def aclose(self) -> None:
        for line in self._lines.values():
            await line.aclose()
        await self._client.aclose()
