"""
Servers of the check that check nothing: each answers with the bytes of a file. `fast` is authz's own server, the
ceiling; `sync` and `aio` are grpcio's.

Started by its path (with `python -P`), and of authz it imports the server alone: so it runs on any tree of the package.
"""

import argparse
import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


SERVICE, METHOD = "envoy.service.auth.v3.Authorization", "Check"
THREADS = 16


async def serve_fast(port: int, answer: bytes) -> None:
    from authz.adapters.http2 import server  # noqa: PLC0415 - the others run without it

    async def check(_: bytes) -> bytes:
        return answer

    serving = server.build(f"127.0.0.1:{port}", {SERVICE: {METHOD: check}}, max_message_bytes=2**20)
    await serving.start()
    await _stopped()
    await serving.stop(0.0)


async def serve_aio(port: int, answer: bytes) -> None:
    import grpc  # noqa: PLC0415

    async def check(_: bytes, __: Any) -> bytes:
        return answer

    serving = grpc.aio.server()
    serving.add_generic_rpc_handlers((_handlers(check),))
    serving.add_insecure_port(f"127.0.0.1:{port}")
    await serving.start()
    await _stopped()
    await serving.stop(0.0)


async def serve_sync(port: int, answer: bytes) -> None:
    import grpc  # noqa: PLC0415

    def check(_: bytes, __: Any) -> bytes:
        return answer

    serving = grpc.server(ThreadPoolExecutor(THREADS))
    serving.add_generic_rpc_handlers((_handlers(check),))
    serving.add_insecure_port(f"127.0.0.1:{port}")
    serving.start()
    await _stopped()
    serving.stop(0.0)


def _handlers(check: Callable[[bytes, Any], Any]) -> Any:
    import grpc  # noqa: PLC0415

    return grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(check)})


async def _stopped() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()


SERVERS = {"fast": serve_fast, "sync": serve_sync, "aio": serve_aio}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server", choices=SERVERS)
    parser.add_argument("port", type=int)
    parser.add_argument("answer", type=Path)
    options = parser.parse_args()
    asyncio.run(SERVERS[options.server](options.port, options.answer.read_bytes()))
