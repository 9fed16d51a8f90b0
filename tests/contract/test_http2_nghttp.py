"""nghttp2's clients, which are strict themselves. Skipped where they are not installed."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from authz.adapters.http2 import server
from tests.support.http2 import ECHO, SERVICE, message


pytestmark = pytest.mark.skipif(
    not (shutil.which("nghttp") and shutil.which("h2load")),
    reason="needs nghttp and h2load (Debian: nghttp2-client)",
)


async def echo(asked: bytes) -> bytes:
    return asked


async def later(asked: bytes) -> bytes:
    await asyncio.sleep(0)
    return asked


@pytest.fixture
async def url() -> AsyncIterator[str]:
    running = server.build("127.0.0.1:0", {SERVICE: {"Echo": echo, "Later": later}}, max_message_bytes=4 * 2**20)
    await running.start()
    yield f"http://127.0.0.1:{running.port}"
    await running.stop(None)


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A file with a message."""
    (tmp_path / "asked").write_bytes(message(b"x" * 1000))
    return tmp_path / "asked"


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")
CALLS = 20


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="as it is"),
        pytest.param(("--header-table-size=0",), id="no table"),
        pytest.param(("--header-table-size=100", "--header-table-size=4096"), id="a table that changes"),
        pytest.param(("--window-bits=6", "--connection-window-bits=16"), id="small windows"),
        pytest.param(("--padding=100",), id="padding"),
        pytest.param(("--no-dep",), id="no PRIORITY"),
        pytest.param(("--hexdump",), id="told in full"),
    ],
)
async def test_nghttp(url: str, asked: Path, options: tuple[str, ...]) -> None:
    post = ("-H", ":method: POST", "-d", str(asked), "-m", str(CALLS))
    output = await run("nghttp", "-nv", *post, *GRPC, *options, url + ECHO)

    assert len(re.findall(r"\) :status: 200", output)) == CALLS
    assert len(re.findall(r"\) grpc-status: 0", output)) == CALLS
    received = [int(size) for size in re.findall(r"recv DATA frame <length=(\d+)", output)]
    assert sum(received) == CALLS * 1005
    assert "recv RST_STREAM" not in output
    assert "recv GOAWAY" not in output


async def test_nghttp_asks_for_a_page(url: str) -> None:
    assert ":status: 405" in await run("nghttp", "-nv", url + ECHO)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("-c4", "-m100"), id="many at once"),
        pytest.param(("-c50", "-m2"), id="many connections"),
        pytest.param(("-c2", "-m1000", "-w16", "-W20"), id="very many at once"),
        pytest.param(("-c2", "-m10", "--header-table-size=0"), id="no table"),
    ],
)
async def test_h2load(url: str, asked: Path, options: tuple[str, ...]) -> None:
    output = await run("h2load", "-n5000", *options, "-d", str(asked), *GRPC, f"{url}/{SERVICE}/Later")

    assert "5000 total, 5000 started, 5000 done, 5000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    assert "status codes: 5000 2xx" in output


async def test_h2load_with_large_messages(url: str, tmp_path: Path) -> None:
    (tmp_path / "asked").write_bytes(message(bytes(3 * 2**20)))
    large = ("-d", str(tmp_path / "asked"), *GRPC)
    output = await run("h2load", "-n60", "-c2", "-m8", *large, f"{url}/{SERVICE}/Later")

    assert "60 succeeded, 0 failed, 0 errored, 0 timeout" in output
