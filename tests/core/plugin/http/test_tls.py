"""TLS and proxies, on real sockets."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from first_core.errors import BackendUnavailableError, SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ANSWER = b'{"choices": []}'
OK = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    """Folder with `server.pem` and `client.pem`, each signed by itself, with their keys."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("server", "client"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN={name}"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


class Recorder:
    """Answers each request with `OK` and keeps the heads."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def listen(recorder: Recorder | Tunnel, context: ssl.SSLContext | None) -> asyncio.Server:
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0, ssl=context)
    recorder.port = server.sockets[0].getsockname()[1]
    return server


@pytest.fixture
def server_context(certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    return context


@pytest.fixture
async def secure(server_context) -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with await listen(recorder, server_context):
        yield recorder


@pytest.fixture
async def plain() -> AsyncIterator[Recorder]:
    recorder = Recorder()
    async with await listen(recorder, None):
        yield recorder


async def test_tls_trusts_the_named_authority(connect, make_call, certificates, secure):
    """A private authority is named by its file."""
    upstream = await connect(
        f"https://127.0.0.1:{secure.port}", ca_file=certificates / "server.pem"
    )

    answer = await upstream.call("v1/chat/completions", make_call(), headers={})

    await upstream.stop()
    assert answer.body == ANSWER


async def test_tls_refuses_who_cannot_prove_it(connect, make_call, secure):
    """By default an unknown authority is refused before anything is sent."""
    upstream = await connect(f"https://127.0.0.1:{secure.port}")

    with pytest.raises(BackendUnavailableError) as caught:
        await upstream.call("v1/chat/completions", make_call(), headers={})

    assert not caught.value.work_started
    assert secure.heads == []


async def test_tls_refuses_another_name(connect, make_call, certificates, secure):
    """A good certificate for another host does not do."""
    upstream = await connect(
        f"https://localhost:{secure.port}", ca_file=certificates / "server.pem"
    )

    with pytest.raises(BackendUnavailableError):
        await upstream.call("v1/chat/completions", make_call(), headers={})

    assert secure.heads == []


async def test_tls_is_not_verified_where_that_is_turned_off(connect, make_call, secure):
    """The setting is for tests behind a closed door."""
    upstream = await connect(f"https://127.0.0.1:{secure.port}", verify_tls=False)

    answer = await upstream.call("v1/chat/completions", make_call(), headers={})

    await upstream.stop()
    assert answer.body == ANSWER


async def test_tls_shows_the_client_certificate(
    connect, make_call, certificates, secure, server_context
):
    """An upstream that asks for a certificate gets the one that is set."""
    server_context.load_verify_locations(certificates / "client.pem")
    server_context.verify_mode = ssl.CERT_REQUIRED
    upstream = await connect(
        f"https://127.0.0.1:{secure.port}",
        ca_file=certificates / "server.pem",
        client_certificate=certificates / "client.pem",
        client_key=certificates / "client.key",
    )

    answer = await upstream.call("v1/chat/completions", make_call(), headers={})

    await upstream.stop()
    assert answer.body == ANSWER


async def test_tls_files_that_do_not_serve_stop_the_start(connect, tmp_path):
    """The message names the file; nothing waits for the first call to fail."""
    missing = tmp_path / "missing.pem"

    with pytest.raises(SettingsError, match=r"missing\.pem"):
        await connect("https://127.0.0.1:1", ca_file=missing)


@pytest.mark.parametrize("carrier", [None])
async def test_proxy_carries_calls_with_its_own_credential(connect, make_call, plain, monkeypatch):
    """The request goes to the proxy, whose credential is not the upstream's."""
    monkeypatch.setenv("PROXY_LOGIN", "user:pass")
    upstream = await connect(
        "http://upstream.invalid:8000/v1",
        proxy=f"http://127.0.0.1:{plain.port}",
        proxy_credential={"env": "PROXY_LOGIN"},
    )

    answer = await upstream.call("chat/completions", make_call(), headers={"x-api-key": "k"})

    head = plain.heads[0].lower()
    assert answer.body == ANSWER
    assert head.startswith(b"post http://upstream.invalid:8000/v1/chat/completions http/1.1\r\n")
    assert b"proxy-authorization: basic dxnlcjpwyxnz\r\n" in head
    assert b"\r\nx-api-key: k\r\n" in head


class Tunnel:
    """A proxy that answers CONNECT by joining both ends."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        host, _, port = head.split(b" ")[1].partition(b":")
        near, far = await asyncio.open_connection(host.decode(), int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pipe(reader, far), pipe(near, writer))


async def pipe(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
    target.close()


@pytest.mark.parametrize("carrier", [None])
async def test_proxy_carries_tls_without_reading_it(
    connect, make_call, certificates, secure, monkeypatch
):
    """The proxy sees the name of the upstream, and neither the call nor its credential."""
    monkeypatch.setenv("PROXY_LOGIN", "user:pass")
    tunnel = Tunnel()
    async with await listen(tunnel, None):
        upstream = await connect(
            f"https://127.0.0.1:{secure.port}",
            ca_file=certificates / "server.pem",
            proxy=f"http://127.0.0.1:{tunnel.port}",
            proxy_credential={"env": "PROXY_LOGIN"},
        )
        answer = await upstream.call("v1/chat", make_call(), headers={"x-api-key": "k"})
        await upstream.stop()

    assert answer.body == ANSWER
    assert b"proxy-authorization: basic dxnlcjpwyxnz\r\n" in tunnel.heads[0].lower()
    assert b"x-api-key" not in tunnel.heads[0]
    assert b"proxy-authorization" not in secure.heads[0].lower()


async def test_proxy_of_the_environment_is_ignored(connect, make_call, plain, sim, monkeypatch):
    """Where calls go stands in the settings and nowhere else."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{plain.port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{plain.port}")
    upstream = await connect(sim.url)

    await upstream.call("v1/chat/completions", make_call(), headers={})

    assert plain.heads == []
    assert sim.received_count == 1
