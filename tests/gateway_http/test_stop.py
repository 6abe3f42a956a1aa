from __future__ import annotations

import asyncio

import pytest

from first_core.errors import SettingsError, StartupError
from first_gateway_http import app

CALL = b'{"model":"m"}'
STREAM = b'{"model":"m","stream":true}'


@pytest.fixture
async def running(start, monkeypatch):
    """A front that lets calls end for 30 s, and last words for a moment."""
    monkeypatch.setattr(app, "CLOSE_TIMEOUT_S", 0.01)
    return await start(drain_s=30.0)


@pytest.fixture
async def raw(dial, running):
    """A raw connection to it."""
    return await dial(running.url)


async def test_stop_lets_calls_end(raw, running, router, post, clock):
    """A call in flight gets its answer although the front stops."""
    router.hold = asyncio.Event()
    await raw.send(post("/v1/embeddings", CALL))
    await router.started.wait()
    stopping = asyncio.create_task(running.front.stop())
    await clock.wait_timers()
    router.hold.set()
    answer = await raw.answer()
    await stopping

    assert answer.body == router.answer.body


async def test_stop_ends_calls_after_its_bound(raw, running, router, post, clock):
    """A call that takes too long gets 503 and may come back."""
    router.hold = asyncio.Event()
    await raw.send(post("/v1/embeddings", CALL))
    await router.started.wait()
    stopping = asyncio.create_task(running.front.stop())
    await clock.wait_timers()
    clock.advance(30)
    answer = await raw.answer()
    await stopping

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert router.cancelled.is_set()


async def test_stop_ends_streams_in_an_error_event(raw, running, router, post, clock):
    """A stream that takes too long ends in an error, not as if it were complete."""
    router.script = [router.data(b"data: 1\n\n"), asyncio.Event()]
    await raw.send(post("/v1/chat/completions", STREAM))
    await raw.reader.readuntil(b"data: 1\n\n\r\n")
    stopping = asyncio.create_task(running.front.stop())
    await clock.wait_timers()
    clock.advance(30)
    rest = await raw.reader.read()
    await stopping

    assert b'data: {"error":' in rest
    assert rest.endswith(b"\r\n0\r\n\r\n")


async def test_stop_does_not_wait_for_readers(raw, running, router, post, clock):
    """A client that reads nothing cannot hold the stop beyond its bounds."""
    router.script = [router.data(b"data: " + b"x" * 1_000_000 + b"\n\n")] * 100
    await raw.send(post("/v1/chat/completions", STREAM))
    await raw.reader.readuntil(b"data: ")
    stopping = asyncio.create_task(running.front.stop())
    await clock.wait_timers()
    clock.advance(30)
    await stopping

    assert router.cancelled.is_set()


async def test_stop_takes_no_new_connections(running, dial):
    """Once stopped, nobody listens."""
    await running.front.stop()

    with pytest.raises(ConnectionRefusedError):
        await dial(running.url)


async def test_stop_closes_idle_connections(raw, running, post):
    """A kept connection does not hold the stop."""
    await raw.send(post("/v1/embeddings", CALL))
    await raw.answer()
    await running.front.stop()

    assert await raw.is_closed()


async def test_stop_can_repeat(running):
    """Stopping twice is stopping once."""
    await running.front.stop()
    await running.front.stop()


async def test_taken_port_stops_the_start(start, running):
    """An address in use is told as such."""

    with pytest.raises(StartupError, match=r"http\.listen: cannot listen at 127"):
        await start(listen=running.url.removeprefix("http://"))


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "example.org:80", "[::]:1"])
async def test_open_address_is_refused(start, listen):
    """Without an authenticator only this machine may reach the front."""

    with pytest.raises(SettingsError, match="loopback"):
        await start(listen=listen)


async def test_two_processes_may_share_a_port(start):
    """With `reuse_port` a second front listens at the same address."""
    first = await start(reuse_port=True)
    second = await start(reuse_port=True, listen=first.url.removeprefix("http://"))

    assert first.url == second.url


async def test_unix_socket(start, tmp_path, post):
    """A front can listen on a unix socket, and takes it away when it stops."""
    path = tmp_path / "s"
    running = await start(listen=f"unix:{path}")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(post("/v1/embeddings", CALL))
    line = await reader.readline()
    writer.close()
    await running.front.stop()

    assert line == b"HTTP/1.1 200 OK\r\n"
    assert running.url == f"http+unix://{path}"
    assert not path.exists()
