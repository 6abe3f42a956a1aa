from __future__ import annotations

import asyncio

import pytest

CARRIERS = pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
CALL = b'{"model":"m"}'
STREAM = b'{"model":"m","stream":true}'


@CARRIERS
async def test_leaving_stops_a_call(raw, router, post):
    """A client that leaves before its answer stops the work."""
    router.hold = asyncio.Event()
    await raw.send(post("/v1/chat/completions", CALL))
    await router.started.wait()
    raw.writer.close()

    assert await router.cancelled.wait()


@CARRIERS
async def test_leaving_stops_a_stream_before_its_first_event(raw, router, post):
    """A client that leaves while nothing has come stops the work."""
    router.script = [asyncio.Event()]
    await raw.send(post("/v1/chat/completions", STREAM))
    await router.started.wait()
    raw.writer.close()

    assert await router.cancelled.wait()


@CARRIERS
async def test_leaving_stops_a_stream_that_runs(raw, router, post):
    """A client that leaves between two events stops the work."""
    router.script = [router.data(b"data: 1\n\n"), asyncio.Event()]
    await raw.send(post("/v1/chat/completions", STREAM))
    await raw.reader.readuntil(b"data: 1")
    raw.writer.close()

    assert await router.cancelled.wait()


@CARRIERS
async def test_leaving_stops_a_stream_that_is_not_read(raw, router, post):
    """A client that leaves while the router waits for it to read stops the work."""
    block = router.data(b"data: " + b"x" * 1_000_000 + b"\n\n")
    router.script = [block] * 100
    await raw.send(post("/v1/chat/completions", STREAM))
    await raw.reader.readuntil(b"data: ")
    raw.writer.transport.abort()

    assert await router.cancelled.wait()


async def test_leaving_ends_the_span(raw, router, post, watch_spans):
    """A call whose client left is told apart from one that failed."""
    router.hold = asyncio.Event()
    await raw.send(post("/v1/chat/completions", CALL))
    await router.started.wait()
    raw.writer.close()
    await router.cancelled.wait()
    await asyncio.sleep(0)

    [span] = watch_spans
    assert span.ends[0] == "CANCELLED"


async def test_leaving_amid_the_body_calls_nobody(raw, router, clock):
    """A body that never ends is no call."""
    await raw.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await clock.wait_timers()
    raw.writer.close()
    while clock.timer_count:  # noqa: ASYNC110 - what ends it is inside the server
        await asyncio.sleep(0)

    assert router.requests == []


async def test_others_go_on(raw, router, post, dial, url):
    """One client's leaving is no other's."""
    router.hold = asyncio.Event()
    other = await dial(url)
    for connection in (raw, other):
        await connection.send(post("/v1/chat/completions", CALL))
    await router.started.wait()
    raw.writer.close()
    await router.cancelled.wait()
    router.hold.set()

    assert (await other.answer()).body == router.answer.body
