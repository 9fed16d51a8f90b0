"""The command's client of a running sidecar: addresses, hostile and broken servers, certificates, and what is told."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from authz.cli import connection
from authz.cli.connection import Address, NotFoundError, Remote
from authz.cli.output import CommandError


KEY = "sk-live-eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJlLW9mLWEtdGVzdC10aGF0LWlzLW5vbmU"
SHOWN = {"id": "key_1", "name": "n", "scopes": ["admin"], "created_at": "2026-05-20T10:00:00Z"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:9003", Address("127.0.0.1:9003", "127.0.0.1", 9003, tls=False)),
        ("http://localhost:9003/", Address("localhost:9003", "localhost", 9003, tls=False)),
        ("http://[::1]:9003", Address("[::1]:9003", "::1", 9003, tls=False)),
        ("https://authz.example.com", Address("authz.example.com", "authz.example.com", 443, tls=True)),
        ("http://authz", Address("authz", "authz", 80, tls=False)),
        ("https://edge/admin/x/", Address("edge", "edge", 443, tls=True, base="/admin/x")),
    ],
)
def test_addresses(url: str, expected: Address) -> None:
    assert Address.of(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:9003",
        "localhost",
        "ftp://planted",
        "unix:/run/planted.sock",
        "http://",
        "http:///planted",
        "http://user:planted@127.0.0.1:9003",
        "http://planted@127.0.0.1:9003",
        "http://127.0.0.1:9003?planted=1",
        "http://127.0.0.1:9003/#planted",
        "http://127.0.0.1:9003#",
        "http://planted:99999",
        "http://planted:0",
        "http://planted:",
        "http://planted:port",
        "http://[::1",
        "http://plan ted",
        "http://planted/\r\nx: y",
        "http://planted\r\nx: y",
        "http://plänted",
        "http://planted/%2e",
    ],
)
def test_what_is_no_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(CommandError) as refused:
        Address.of(url)

    assert refused.value.status == 2
    assert "planted" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("http://127.0.0.1:9003", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:9003", False),
        ("http://localhost", False),
        ("http://192.0.2.1", True),
        ("http://authz.example.com", True),
        ("https://authz.example.com", False),
    ],
)
def test_a_key_in_the_clear_is_warned_of(url: str, exposed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    Remote(Address.of(url), KEY)

    assert ("unencrypted" in capsys.readouterr().err) is exposed


@pytest.mark.parametrize("value", ["", "planted key", "planted\n", "plänted", "planted\x00", "p" * 8193])
def test_what_is_no_key_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(CommandError, match=r"\$AUTHZ_ADMIN_KEY") as refused:
        connection._credential({"AUTHZ_ADMIN_KEY": value})

    assert refused.value.status == 2
    assert "lanted" not in str(refused.value)


def test_a_key_is_in_no_representation() -> None:
    assert KEY not in repr(Remote(Address.of("http://localhost"), KEY))


class Server:
    """Answers every request with the same bytes, whatever they are; keeps what it was asked."""

    def __init__(self, answer: bytes, hold_s: float) -> None:
        self._answer, self._hold_s = answer, hold_s
        self.asked: list[bytes] = []
        self.taken: set[asyncio.Task[None]] = set()
        self.port = 0

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken.add(asyncio.create_task(self._take(reader, writer)))

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            with contextlib.suppress(TimeoutError):  # of what is no HTTP, there is no end
                async with asyncio.timeout(0.3):
                    head = await reader.readuntil(b"\r\n\r\n")
                    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length")]
                    self.asked.append(head + await reader.readexactly(sum(lengths)))
            await asyncio.sleep(self._hold_s)
            writer.write(self._answer)
            await writer.drain()
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def answering(answer: bytes, *, tls: ssl.SSLContext | None = None, hold_s: float = 0) -> AsyncIterator[Server]:
    server = Server(answer, hold_s)
    listening = await asyncio.start_server(server.take, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await asyncio.gather(*server.taken)


def http(status: int, body: object, *headers: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def remote(server: Server, scheme: str = "http", timeout_s: float = 5.0) -> Remote:
    return Remote(Address.of(f"{scheme}://127.0.0.1:{server.port}"), KEY, timeout_s=timeout_s)


async def refusal(answer: bytes, method: str = "GetKey", timeout_s: float = 5.0, hold_s: float = 0) -> CommandError:
    async with answering(answer, hold_s=hold_s) as server:
        with pytest.raises(CommandError) as refused:
            await remote(server, timeout_s=timeout_s).call(method, {"id": "key_1"})
    assert KEY not in str(refused.value)
    assert str(refused.value).isprintable()
    return refused.value


async def test_the_request_is_that_of_the_api() -> None:
    async with answering(http(200, SHOWN)) as server:
        values = {"key": {"id": "key_1", "name": "n"}, "update_mask": "name"}
        await remote(server).call("UpdateKey", values)

    head, _, body = server.asked[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "PATCH /authz/v1/keys/key_1?update_mask=name HTTP/1.1"
    assert f"host: 127.0.0.1:{server.port}" in lines
    assert f"authorization: Bearer {KEY}" in lines
    assert json.loads(body) == {"name": "n"}


async def test_what_a_newer_server_adds_is_left_out_and_what_an_older_one_lacks_is_empty() -> None:
    async with answering(http(200, SHOWN | {"colour": "red", "rotations": [{"number": 1, "shade": 2}]})) as server:
        key = await remote(server).call("GetKey", {"id": "key_1"})

    assert (key["id"], key["scopes"], key["state"], key["expires_at"]) == ("key_1", ["admin"], "", None)
    assert key["rotations"] == [{"number": 1, "issued_at": None, "ends_at": None}]
    assert "colour" not in key


async def test_usage_is_asked_for_in_the_query_and_told_as_it_came() -> None:
    """What the server left out stays left out, though the API knows it; whole numbers stay whole."""
    used = {"id": "key_1", "requests": 3, "input_tokens": 2**40, "by_model": {"m": {"requests": 1}}}
    async with answering(http(200, used)) as server:
        key = await remote(server).call("GetKeyUsage", {"id": "key_1", "start_time": "2026-05-20T10:00:00+02:00"})
    assert server.asked[0].startswith(b"GET /authz/v1/keys/key_1/usage?start_time=2026-05-20T10%3A00%3A00%2B02%3A00 ")
    assert (key["requests"], key["denied"], key["last_used_at"]) == (3, 0, None)
    assert (type(key["input_tokens"]), key["input_tokens"]) == (int, 2**40)
    assert key["by_model"] == {"m": {"requests": 1, "input_tokens": 0, "output_tokens": 0}}
    assert not {"start_time", "end_time"} & key.keys()

    async with answering(http(200, {"requests": 1, "groups": [{"key_id": "key_1", "requests": 1}]})) as server:
        told = await remote(server).call("GetUsage", {"group_by": ["key", "day"], "filter": ""})
    assert server.asked[0].startswith(b"GET /authz/v1/usage?group_by=key&group_by=day&filter= ")
    assert [*told["groups"][0]] == ["key_id", "requests", "denied", "input_tokens", "output_tokens"]


async def test_an_answer_in_pieces_is_an_answer() -> None:
    content = json.dumps(SHOWN).encode()
    chunks = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (5, content[:5], len(content) - 5, content[5:])
    async with answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks) as server:
        assert (await remote(server).call("GetKey", {"id": "key_1"}))["id"] == "key_1"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"error": {"message": "In openai's words.", "code": "x"}}, "In openai's words"),
        ({"title": "Forbidden", "detail": "Of RFC 9457.", "error": {"code": "x"}}, "Of RFC 9457"),
        ({"error": "In one word."}, "In one word"),
        ({"message": "By itself."}, "By itself"),
        ({"error": {"message": 5}, "detail": ""}, "answers HTTP 403 Forbidden"),
        (["a list"], "answers HTTP 403 Forbidden"),
        ({"detail": "\x1b[2Jcleared\u202e"}, r"\x1b[2Jcleared\u202e"),
        ({"detail": f"you sent {KEY}"}, "you sent [token]"),
        ({"detail": "x" * 1000}, "x" * 500),
    ],
)
async def test_refusals_of_every_format(body: object, told: str) -> None:
    refused = await refusal(http(403, body))

    assert told in str(refused)
    assert "x" * 501 not in str(refused)
    assert refused.status == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        pytest.param(http(301, b"", "location: http://elsewhere/"), "redirects (HTTP 301)", id="redirect"),
        pytest.param(http(307, b"", "location: http://elsewhere/"), "redirects (HTTP 307)", id="redirect of a POST"),
        pytest.param(http(200, b"<html>"), "does not answer as authz's admin API does (HTTP 200)", id="a page"),
        pytest.param(http(502, b"bad gateway"), "as authz's admin API does (HTTP 502)", id="a proxy's error"),
        pytest.param(http(404, {"error": {"message": "Nothing at this path."}}), "Nothing at this path", id="else's"),
        pytest.param(http(204, b""), "HTTP 204", id="nothing"),
        pytest.param(http(200, {"pages": []}), "as authz's admin API does", id="another API"),
        pytest.param(http(200, ["a"]), "as authz's admin API does", id="a list"),
        pytest.param(http(200, {"id": 5}), "as authz's admin API does", id="another type"),
        pytest.param(http(200, {"id": "k", "rotations": 5}), "as authz's admin API does", id="another shape"),
        pytest.param(http(200, b"[" * 100_000), "as authz's admin API does", id="a deep one"),
        pytest.param(http(200, SHOWN)[:-5], "as an HTTP server does", id="cut short"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", "as an HTTP server does", id="another protocol"),
        pytest.param(b"", "as an HTTP server does", id="nothing at all"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "as an HTTP server does", id="headers"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (17 * 2**20), "more than 16777216 bytes", id="a flood"),
    ],
)
async def test_servers_that_are_something_else(answer: bytes, told: str) -> None:
    refused = await refusal(answer)

    assert told in str(refused)
    assert (refused.status, type(refused)) == (1, CommandError)


async def test_bad_requests_are_bad_usage_and_unknown_keys_are_known_as_such() -> None:
    assert (await refusal(http(400, {"error": {"message": "name: no."}}), "RevokeKey")).status == 2
    missing = await refusal(http(404, {"error": {"message": "There is no such key."}}))
    assert isinstance(missing, NotFoundError)
    own = await refusal(http(401, {"error": {"message": "The API key has expired."}}))
    assert "refuses $AUTHZ_ADMIN_KEY: The API key has expired" in str(own)


async def test_a_server_that_takes_its_time_is_not_waited_for() -> None:
    read = await refusal(http(200, SHOWN), timeout_s=0.2, hold_s=0.4)
    written = await refusal(http(200, SHOWN), "RevokeKey", timeout_s=0.2, hold_s=0.4)

    assert str(read).endswith("does not answer within 0.2 s")
    assert str(written).endswith("0.2 s: it may have done what was asked, or not")


async def test_a_server_that_is_not_there() -> None:
    async with answering(b"") as server:
        port = server.port
    with pytest.raises(CommandError, match=f"127.0.0.1:{port} cannot be reached: Connection refused"):
        await Remote(Address.of(f"http://127.0.0.1:{port}"), KEY).call("GetKey", {"id": "key_1"})


def certificate(folder: Path, host: str) -> tuple[ssl.SSLContext, Path]:
    """One that signs itself for *host*, and where it is."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    today = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(today).not_valid_after(today.replace(year=2120))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    signed = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context, folder / "cert.pem"


async def test_certificates_are_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path, "127.0.0.1")
    async with answering(http(200, SHOWN), tls=context) as server:
        with pytest.raises(CommandError, match=r"certificate of .* is not trusted"):
            await remote(server, "https").call("GetKey", {"id": "key_1"})
        assert server.asked == []  # the key was not sent
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
        assert (await remote(server, "https").call("GetKey", {"id": "key_1"}))["id"] == "key_1"


async def test_a_certificate_for_another_name_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, trusted = certificate(tmp_path, "192.0.2.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with answering(http(200, SHOWN), tls=context) as server:
        with pytest.raises(CommandError, match="is not trusted"):
            await remote(server, "https").call("GetKey", {"id": "key_1"})


async def test_https_to_a_server_without_tls() -> None:
    async with answering(http(400, b"")) as server:
        with pytest.raises(CommandError, match="does not speak TLS"):
            await remote(server, "https", timeout_s=2).call("GetKey", {"id": "key_1"})
