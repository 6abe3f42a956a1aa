"""The connections that the pool keeps."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from first_core.errors import UpstreamRejectedError
from first_core.plugin.http.pool import MAX_CONNECTION_AGE_S, PoolCarrier
from first_core.testing.simulator import Raw

ANSWER = b'{"choices": []}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(ANSWER)

PATH = "v1/chat/completions"


@pytest.fixture
def carrier():
    return PoolCarrier


async def settle(condition) -> None:
    """Let the loop turn until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - sockets tell no event
        await asyncio.sleep(0)


async def test_idle_connection_is_closed_in_time(call, clock, sim):
    """A connection that nobody uses is closed after `keepalive_s`."""
    await call()

    clock.advance(8.0)

    await settle(lambda: sim.connection_count == 0)


async def test_idle_connection_is_not_used_after_its_time(connect, make_call, clock, sim):
    """A connection that the upstream may be closing takes no request, swept or not."""
    upstream = await connect(sim.url, keepalive_s=0.2)
    sim.faults.add(Raw(script=(HEAD + b"\r\n" + ANSWER,), end="hold"))
    await upstream.call(PATH, make_call(), headers={})
    clock.advance(0.3)

    answer = await upstream.call(PATH, make_call(), headers={})

    assert answer.body != ANSWER


async def test_connection_is_kept_as_long_as_the_upstream_says(connect, make_call, clock, sim):
    """`Keep-Alive: timeout` shortens the time, with a second to spare."""
    upstream = await connect(sim.url, keepalive_s=60.0)
    sim.faults.add(
        Raw(script=(HEAD + b"keep-alive: max=9, timeout=3\r\n\r\n" + ANSWER,), end="hold")
    )
    await upstream.call(PATH, make_call(), headers={})
    clock.advance(2.5)

    answer = await upstream.call(PATH, make_call(), headers={})

    assert answer.body != ANSWER


async def test_no_connection_is_kept_where_that_is_turned_off(connect, make_call, sim):
    """`keepalive_s: 0` opens a connection for each call."""
    upstream = await connect(sim.url, keepalive_s=0)

    await upstream.call(PATH, make_call(), headers={})

    await settle(lambda: sim.connection_count == 0)


async def test_old_connection_is_not_kept(connect, make_call, clock, sim):
    """A busy connection ends too, so that a change in DNS is noticed."""
    upstream = await connect(sim.url, keepalive_s=2 * MAX_CONNECTION_AGE_S)
    await upstream.call(PATH, make_call(), headers={})
    clock.advance(MAX_CONNECTION_AGE_S + 1.0)

    await upstream.call(PATH, make_call(), headers={})

    await settle(lambda: sim.connection_count == 0)


async def test_connection_that_the_upstream_closed_is_forgotten(call, sim):
    """A close while idle is seen at once, and costs no second request."""
    await call()
    await sim.pause_listening()
    await sim.resume_listening()

    await call()

    assert sim.received_count == 2


async def test_bytes_on_an_idle_connection_close_it(call, sim):
    """What a server says unasked, such as 408 before it closes, answers no call."""
    gate = asyncio.Event()
    unasked = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"
    sim.faults.add(Raw(script=(HEAD + b"\r\n" + ANSWER, gate, unasked), end="hold"))
    await call()
    gate.set()
    await settle(lambda: sim.connection_count == 0)

    answer = await call()

    assert b"choices" in answer.body
    assert sim.received_count == 2


async def test_connection_with_an_unsent_body_is_closed(connect, make_call):
    """An upstream that answers before it took the whole body gets no further request on it."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        writer.close()
        left.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, limit=1024) as server:
        upstream = await connect(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(UpstreamRejectedError) as caught:
            await upstream.call(PATH, make_call(b"a" * 20_000_000), headers={})
        await left.wait()

    assert caught.value.upstream.status == 413


async def test_connections_keep_no_context_of_a_call(stream, sim, sink):
    """What a call has in its context never shows up in another one's callbacks."""
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("first call")
    seen = []
    write = sink.write

    def spy(data: bytes) -> bool:
        seen.append(variable.get())
        return write(data)

    sink.write = spy

    await stream()

    assert set(seen) == {"none"}


async def test_stop_while_connecting_leaves_nothing_open(connect, make_call, silent_port):
    """A connection that comes about after stop is not used."""
    upstream = await connect(f"http://127.0.0.1:{silent_port.port}")
    task = asyncio.create_task(upstream.call(PATH, make_call(), headers={}))
    await asyncio.sleep(0)

    await upstream.stop()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_calls_that_are_cancelled_while_connecting_leave_nothing_open(
    upstream, make_call, sim
):
    """Whenever the cancellation comes, the connection is closed, and stop does not wait for it."""
    for turns in range(40):
        task = asyncio.create_task(upstream.call(PATH, make_call(), headers={}))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await upstream.stop()

    await settle(lambda: sim.connection_count == 0)
