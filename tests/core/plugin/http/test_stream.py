"""Streamed answers, over both carriers."""

from __future__ import annotations

import asyncio

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    LimitExceededError,
    StreamTruncatedError,
    UpstreamRejectedError,
)
from first_core.plugin.http.pool import PoolCarrier
from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    ErrorInside,
    ErrorStatus,
    Garbage,
    NoDone,
    Raw,
    SplitWrites,
    StallAfterEvents,
    StallAfterHead,
    StallBeforeHead,
)
from first_core.types import Operation

EVENTS = b'data: {"choices": [1]}\n\n: ping\n\ndata: [DONE]\n\n'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + end


async def test_stream_passes_bytes_on_unchanged(stream, sim, sink):
    """The sink gets the bytes of the upstream in order, and their type first."""
    sim.faults.add(
        Raw(
            script=(
                HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(EVENTS[:9], EVENTS[9:]),
            ),
            end="keep",
        )
    )

    await stream()

    assert sink.data == EVENTS
    assert sink.started == ["text/event-stream"]


async def test_stream_passes_on_what_comes_byte_by_byte(stream, sim, sink):
    """How the answer is cut into packets and chunks does not matter."""
    await stream()
    whole = sink.data
    sim.faults.add(SplitWrites())

    await stream()

    assert sink.data.count(b"data: ") == whole.count(b"data: ")
    assert sink.data.endswith(b"data: [DONE]\n\n")


async def test_stream_passes_on_each_event_as_it_comes(stream, sim, sink):
    """An event does not wait for the next one."""
    gate = asyncio.Event()
    sim.faults.add(StallAfterEvents(count=1, gate=gate))
    task = asyncio.create_task(stream())

    await sink.first_write.wait()
    first = sink.data
    gate.set()
    await task

    assert first.endswith(b"\n\n")
    assert len(sink.data) > len(first)


async def test_stream_keeps_its_connection(stream, sim):
    """Streams after each other share one connection."""
    await stream()
    await stream()

    assert sim.connection_count == 1


@pytest.mark.parametrize(
    "fault", [NoDone(), BrokenEvent(after=1), CutAfterEvents(count=2, clean=True)]
)
async def test_stream_does_not_judge_events(stream, sim, sink, fault):
    """Whether a stream is complete is read elsewhere, from its bytes."""
    sim.faults.add(fault)

    await stream()

    assert sink.data


@pytest.mark.parametrize(
    "head",
    [HEAD + b"\r\n", b"HTTP/1.0 200 OK\r\ncontent-type: Text/Event-Stream;charset=x\r\n\r\n"],
)
async def test_stream_takes_events_that_end_with_the_connection(stream, sim, sink, head):
    """Without length and chunks the end of the connection is the end of the stream."""
    sim.faults.add(Raw(script=(head, EVENTS)))

    await stream()

    assert sink.data == EVENTS


@pytest.mark.parametrize(
    "fault",
    [
        CutAfterEvents(count=2),
        CutAfterEvents(count=2, reset=True),
        CutAfterBytes(count=70),
        CutInsideCharacter(),
        Raw(script=(HEAD + b"content-length: 100\r\n\r\n" + EVENTS,)),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{str(fault)[:50]}",
)
async def test_stream_that_breaks_off_is_truncated(stream, sim, sink, fault):
    """After the first byte a broken connection is never taken for an end."""
    sim.faults.add(fault)

    with pytest.raises(StreamTruncatedError):
        await stream()

    assert sink.data


@pytest.mark.parametrize("carrier", [PoolCarrier])
async def test_stream_with_a_broken_chunk_is_truncated(stream, sim, sink):
    """What is no HTTP after the first byte is never taken for an end.

    aiohttp tells nobody, so behind a proxy the idle bound ends such a stream.
    """
    read = asyncio.Event()
    begin = HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunked(EVENTS, end=b"")
    sim.faults.add(Raw(script=(begin, read, b"zz\r\n"), end="close"))
    task = asyncio.create_task(stream())
    await sink.first_write.wait()

    read.set()

    with pytest.raises(StreamTruncatedError):
        await task


@pytest.mark.parametrize(
    "fault",
    [
        CutAfterBytes(count=0),
        CutAfterBytes(count=0, reset=True),
        Raw(script=(), end="reset"),
        Raw(script=(HEAD + b"content-length: 0\r\n\r\n",), end="keep"),
        Garbage(kind="not_http"),
        Garbage(kind="html"),
        Garbage(kind="invalid_json"),
        Raw(script=(b'HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{"choices":[]}',), end="keep"),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{str(fault)[:50]}",
)
async def test_stream_that_never_begins_is_unavailable(stream, sim, sink, fault):
    """Before the first byte it is a fault that another endpoint may heal."""
    sim.faults.add(fault)

    with pytest.raises(BackendUnavailableError):
        await stream()

    assert not sink.data


async def test_stream_is_not_repeated_once_a_byte_went_on(stream, sim, sink):
    """Nothing is sent twice, on a kept connection either."""
    await stream()
    sim.faults.add(CutAfterEvents(count=1))

    with pytest.raises(StreamTruncatedError):
        await stream()

    assert sim.received_count == 2


async def test_stream_is_repeated_where_an_idle_connection_was_closed(stream, sim, sink):
    """A kept connection that closes without a byte costs the caller nothing."""
    await stream()
    sim.faults.add(Raw(script=(), end="close"))

    await stream()

    assert sim.received_count == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ErrorStatus(status=400), UpstreamRejectedError),
        (ErrorStatus(status=429), LimitExceededError),
        (ErrorStatus(status=500), BackendUnavailableError),
        (
            Raw(script=(b"HTTP/1.1 200 OK\r\n\r\n", b'{"error": {"code": 429}}')),
            LimitExceededError,
        ),
    ],
    ids=["400", "429", "500", "error in a 200"],
)
async def test_stream_maps_an_error_instead_of_events(stream, sim, sink, fault, kind):
    """An error that comes as a plain answer is told as for calls, and nothing is written."""
    sim.faults.add(fault)

    with pytest.raises(kind):
        await stream()

    assert not sink.started


async def test_stream_passes_on_an_error_event(stream, sim, sink):
    """An error inside the events is theirs to tell: the bytes go on as they came."""
    sim.faults.add(ErrorInside())

    await stream()

    assert b"Simulated failure" in sink.data


async def test_stream_takes_a_transcription_that_is_text(stream, sim, sink):
    """A transcription may be plain text though a stream was asked for."""
    sim.faults.add(
        Raw(
            script=(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nHello",
            ),
            end="keep",
        )
    )

    await stream(operation=Operation.TRANSCRIPTION)

    assert (sink.started, sink.data) == (["text/plain"], b"Hello")


async def test_stream_stops_reading_while_the_reader_is_behind(stream, sim, sink):
    """A slow reader holds the upstream back instead of filling memory."""
    endless = chunked(b"x" * 65536, end=b"") * 160
    sim.faults.add(
        Raw(
            script=(HEAD + b"transfer-encoding: chunked\r\n\r\n", endless, b"0\r\n\r\n"), end="keep"
        )
    )
    sink.is_behind = True
    task = asyncio.create_task(stream())
    await sink.drain_began.wait()
    for _ in range(50):
        await asyncio.sleep(0)
    held = len(sink.data)

    sink.is_behind = False
    sink.caught_up.set()
    await task

    assert held <= 1_000_000
    assert len(sink.data) == 160 * 65536


async def test_stream_does_not_blame_the_upstream_for_a_slow_reader(stream, sim, sink, clock):
    """Time spent on the reader is not the upstream's silence."""
    sink.is_behind = True
    task = asyncio.create_task(stream(idle_s=5.0))
    await sink.drain_began.wait()

    clock.advance(60.0)
    sink.is_behind = False
    sink.caught_up.set()
    await task

    assert sink.data.endswith(b"data: [DONE]\n\n")


async def test_stream_ends_when_the_first_chunk_does_not_come(stream, sim, sink, clock):
    """A head alone is no first chunk."""
    sim.faults.add(StallAfterHead())
    task = asyncio.create_task(stream(first_chunk_s=30.0, idle_s=5.0))
    await sim.wait_running(1)

    clock.advance(31.0)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata["bound"] == "first_chunk"
    await sim.wait_aborts(1)


async def test_stream_ends_when_the_upstream_falls_silent(stream, sim, sink, clock):
    """Silence after the first chunk is bounded by `idle`, and the upstream is left."""
    sim.faults.add(StallAfterEvents(count=1))
    task = asyncio.create_task(stream(first_chunk_s=None, idle_s=5.0))
    await sink.first_write.wait()

    clock.advance(5.2)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata == {"bound": "idle", "timeout_s": "5"}
    await sim.wait_aborts(1)


async def test_stream_goes_on_while_chunks_come(stream, sim, sink, clock):
    """Each chunk moves the bound; a healthy stream has no end by the clock."""
    gates = [asyncio.Event() for _ in range(4)]
    script: list[bytes | asyncio.Event] = [HEAD + b"transfer-encoding: chunked\r\n\r\n"]
    for gate in gates:
        script += [chunked(b"data: 1\n\n", end=b""), gate]
    sim.faults.add(Raw(script=(*script, b"0\r\n\r\n"), end="keep"))
    task = asyncio.create_task(stream(first_chunk_s=4.0, idle_s=4.0))
    for gate in gates:
        await sink.first_write.wait()
        sink.first_write.clear()
        clock.advance(3.0)
        gate.set()

    await task

    assert sink.data == b"data: 1\n\n" * 4


async def test_stream_ends_at_the_total_bound(stream, sim, sink, clock):
    """`total` ends a stream that is well."""
    sim.faults.add(StallAfterEvents(count=1))
    task = asyncio.create_task(stream(total_s=10.0, idle_s=None))
    await sink.first_write.wait()

    clock.advance(11.0)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata["bound"] == "total"


@pytest.mark.parametrize("fault", [StallBeforeHead(), StallAfterHead(), StallAfterEvents(count=2)])
async def test_stream_closes_its_connection_when_cancelled(stream, sim, fault):
    """Cancelling reaches the upstream in each window."""
    sim.faults.add(fault)
    task = asyncio.create_task(stream())
    await sim.wait_running(1)

    task.cancel()

    await sim.wait_aborts(1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stream_closes_its_connection_when_cancelled_while_the_reader_is_behind(
    stream, sim, sink
):
    """A client that leaves while it was behind stops the work too."""
    sim.faults.add(StallAfterEvents(count=2))
    sink.is_behind = True
    task = asyncio.create_task(stream())
    await sink.drain_began.wait()

    task.cancel()

    await sim.wait_aborts(1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_stream_fails_with_what_the_sink_raises(stream, sim, sink):
    """A sink that fails ends the exchange, and its error reaches the caller."""

    def write(_data: bytes) -> bool:
        raise LookupError("sink")

    sink.write = write
    sim.faults.add(StallAfterEvents(count=2))

    with pytest.raises(LookupError):
        await stream()

    await sim.wait_aborts(1)


async def test_stream_fails_when_the_upstream_is_stopped(stream, upstream, sim, sink):
    """Stopping ends a stream that has begun as truncated."""
    sim.faults.add(StallAfterEvents(count=1))
    task = asyncio.create_task(stream())
    await sink.first_write.wait()

    await upstream.stop()

    with pytest.raises(StreamTruncatedError):
        await task
