"""The listener for streams, on a real socket; no testbed needed."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import aiohttp
import pytest

from first_core.errors import BackendUnavailableError, StreamTruncatedError
from first_core.plugin.watchdog import Watchdog
from first_core.testing.clock import FakeClock
from first_core.types import Timeouts
from first_globus.buffers import TaskResult
from first_globus.ingest import Ingest
from first_globus.settings import StreamingSettings
from first_globus.streams import Streams

SECRET = "shared-secret-of-tests"  # noqa: S105 - guards nothing


class Sink:
    def __init__(self) -> None:
        self.data = b""
        self.came = asyncio.Event()
        self.room: asyncio.Event | None = None

    def start(self, content_type) -> None:
        pass

    def write(self, data) -> bool:
        self.data += data
        self.came.set()
        return self.room is not None

    async def drain(self) -> None:
        await self.room.wait()


@pytest.fixture
async def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def streams(clock) -> Streams:
    return Streams(max_waiting_bytes=1000, clock=clock)


@pytest.fixture
async def post(streams, monkeypatch):
    monkeypatch.setenv("TEST_STREAM_SECRET", SECRET)
    settings = StreamingSettings(secret={"env": "TEST_STREAM_SECRET"}, max_post_bytes=4096)
    ingest = Ingest(settings, streams)
    await ingest.start()
    async with aiohttp.ClientSession() as session:

        async def send(kind, stream, *, secret=SECRET, credential=None, body=None, **fields):
            url = f"http://127.0.0.1:{ingest.port}/resource_server/api/streaming/{kind}/"
            headers = {
                "x-internal-secret": secret,
                "x-stream-task-token": stream.credential if credential is None else credential,
            }
            data = body or json.dumps({"task_id": stream.id, "type": kind, **fields}).encode()
            async with session.post(url, data=data, headers=headers) as answer:
                return answer.status

        yield send
    await ingest.stop()


@pytest.fixture
async def relay(streams, clock):
    """Relay streams into sinks, as calls that wait for them would."""
    tasks = []

    def begin(stream, sink):
        result = asyncio.get_running_loop().create_future()
        timeouts = Timeouts(first_chunk_s=10.0, idle_s=10.0)

        async def run():
            with Watchdog(clock).watch(asyncio.current_task()) as watch:
                task = SimpleNamespace(result=result)
                await stream.relay(sink, task, watch=watch, timeouts=timeouts, confirm_s=5.0)

        tasks.append(asyncio.create_task(run()))
        return tasks[-1], result

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_post_without_the_secret_is_refused(post, streams):
    """The shared secret is asked for first, and tells nothing about streams."""
    stream = streams.open()

    assert await post("data", stream, secret="wrong", data="data: {}") == 401
    assert await post("data", stream, secret="", data="data: {}") == 401


async def test_credential_of_another_stream_is_refused(post, streams, relay):
    """Each stream takes its own credential only, and stays as it was."""
    one, other = streams.open(), streams.open()
    sink = Sink()
    relaying, _ = relay(one, sink)

    assert await post("data", one, credential=other.credential, data="data: 1", seq=1) == 404
    assert await post("error", one, credential="", error="forged") == 404
    assert await post("data", one, data="data: 2\n\n", seq=1) == 200
    assert await post("done", one, groups=1) == 200
    await relaying
    assert sink.data == b"data: 2\n\n"


async def test_closed_stream_takes_nothing(post, streams):
    """A credential serves no longer than its stream: a replay is refused."""
    stream = streams.open()
    streams.close(stream)

    assert await post("data", stream, data="data: {}", seq=1) == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"task_id": 1}', b"\xff"])
async def test_what_is_no_post_is_refused(post, streams, body):
    """A body that cannot be read is refused."""
    assert await post("data", streams.open(), body=body) == 400


async def test_large_post_is_refused(post, streams):
    """A body above the limit is refused."""
    assert await post("data", streams.open(), data="x" * 5000, seq=1) == 413


async def test_repeated_chunk_counts_once(post, streams, relay):
    """A chunk that is sent again is taken once."""
    stream, sink = streams.open(), Sink()
    relaying, _ = relay(stream, sink)

    for number, data in ((1, "data: a\n\n"), (1, "data: a\n\n"), (2, "data: b\n\n")):
        assert await post("data", stream, data=data, seq=number) == 200
    await post("done", stream, groups=2)
    await relaying

    assert sink.data == b"data: a\n\ndata: b\n\n"


async def test_gap_ends_the_stream_in_an_error(post, streams, relay):
    """A chunk whose predecessor is missing is refused, and the stream is no success."""
    stream, sink = streams.open(), Sink()
    relaying, _ = relay(stream, sink)
    await post("data", stream, data="data: a\n\n", seq=1)
    await sink.came.wait()

    assert await post("data", stream, data="data: c\n\n", seq=3) == 503
    with pytest.raises(StreamTruncatedError):
        await relaying


async def test_missing_end_is_noticed(post, streams, relay):
    """An end that tells of more chunks than have come is an error."""
    stream, sink = streams.open(), Sink()
    relaying, _ = relay(stream, sink)
    await post("data", stream, data="data: a\n\n", seq=1)
    await sink.came.wait()
    await post("done", stream, groups=2)

    with pytest.raises(StreamTruncatedError):
        await relaying


@pytest.mark.parametrize(("total", "is_whole"), [(3, True), (4, False)])
async def test_lines_without_numbers_are_counted(post, streams, relay, total, is_whole):
    """Today's function tells at its end how many lines there were."""
    stream, sink = streams.open(), Sink()
    relaying, result = relay(stream, sink)
    await post("data", stream, data="data: a\ndata: b")
    await post("data", stream, data="data: c")
    await post("done", stream)
    summary = json.dumps({"streaming": True, "status": "completed", "total_chunks": total})
    result.set_result(TaskResult("t", "11\n" + json.dumps(summary)))

    if is_whole:
        await relaying
        assert sink.data == b"data: a\n\ndata: b\n\ndata: c\n\n"
    else:
        with pytest.raises(StreamTruncatedError):
            await relaying


async def test_lines_of_one_event_stay_together(post, streams, relay):
    """A name of an event belongs to the data below it."""
    stream, sink = streams.open(), Sink()
    relay(stream, sink)

    await post("data", stream, data="event: message_start\ndata: {}")
    await sink.came.wait()

    assert sink.data == b"event: message_start\ndata: {}\n\n"


async def test_error_before_the_first_chunk(post, streams, relay):
    """An error that tells no status is the cluster's fault; its text reaches no caller."""
    stream = streams.open()
    relaying, _ = relay(stream, Sink())
    await post("error", stream, error="hidden detail")

    with pytest.raises(BackendUnavailableError) as caught:
        await relaying
    assert "hidden" not in str(caught.value)


async def test_reader_that_is_behind_holds_posts(post, streams, relay, clock):
    """Chunks wait within bounds: a post beyond them is held, then refused to be sent again."""
    stream, sink = streams.open(), Sink()
    sink.room = asyncio.Event()
    relaying, _ = relay(stream, sink)
    await post("data", stream, data="a\n", seq=1)
    await sink.came.wait()
    await post("data", stream, data="x" * 1500 + "\n", seq=2)
    held = asyncio.create_task(post("data", stream, data="y\n", seq=3))
    await clock.wait_timers(2)  # of the watchdog, and of the held post

    sink.room.set()

    assert await held == 200
    await post("done", stream, groups=3)
    await relaying
    assert sink.data.endswith(b"x\ny\n")
