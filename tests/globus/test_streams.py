"""Streams in task mode, end to end."""

from __future__ import annotations

import asyncio
import json

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    StreamTruncatedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    SimulatorSettings,
    StallAfterEvents,
)
from first_core.types import Operation

BODY = b"""{"model": "sim-model", "stream": true, "stream_options": {"include_usage": true},
 "messages": [{"role": "user", "content": "Hi"}]}"""


def events(data: bytes) -> list[bytes]:
    return [line for line in data.split(b"\n") if line.strip() and line != b"data: [DONE]"]


def text_of(data: bytes) -> str:
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in events(data)]
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


async def test_stream_arrives_whole_and_in_order(start, make_call, sink, sim, function):
    """A stream brings the very text that a plain call brings, and its usage."""
    backend = await start(function)
    plain = await backend.call(make_call(BODY.replace(b'"stream": true, ', b"")))

    await backend.stream(make_call(BODY), sink)

    assert text_of(sink.data) == json.loads(plain.body)["choices"][0]["message"]["content"]
    assert json.loads(events(sink.data)[-1].removeprefix(b"data: "))["usage"]["completion_tokens"]
    assert sink.content_type == "text/event-stream"


async def test_stream_of_ours_keeps_every_byte(start, make_call, sink, sim):
    """What our function sends is what the server sent, end mark and empty lines included."""
    backend = await start()

    await backend.stream(make_call(BODY), sink)

    assert sink.data.endswith(b"\n\ndata: [DONE]\n\n")
    assert sink.data.count(b"\n\n") == len(events(sink.data)) + 1


class TestPaced:
    @pytest.fixture
    def sim_settings(self):
        return SimulatorSettings(token_interval_s=0.05, natural_token_count=40)

    async def test_chunks_arrive_while_the_server_writes(self, start, make_call, sink, sim):
        """Chunks are passed on as they come, not at the end."""
        backend = await start()
        streaming = asyncio.create_task(backend.stream(make_call(BODY), sink))

        await asyncio.wait_for(sink.came.wait(), 30)

        assert sim.running_count == 1
        await streaming

    async def test_leaving_stops_the_server(self, start, make_call, sink, sim):
        """When the client leaves, our function closes its connection to the server."""
        backend = await start()
        streaming = asyncio.create_task(backend.stream(make_call(BODY), sink))
        await asyncio.wait_for(sink.came.wait(), 30)

        streaming.cancel()

        await sim.wait_aborts(1)
        await asyncio.gather(streaming, return_exceptions=True)

    async def test_slow_reader_loses_nothing(self, start, make_call, sink, sim):
        """A reader that stops for a while gets everything once it goes on."""
        backend = await start()
        sink.hold = asyncio.Event()
        streaming = asyncio.create_task(backend.stream(make_call(BODY), sink))
        await asyncio.wait_for(sink.came.wait(), 30)
        await sim.wait_idle()

        sink.hold.set()
        await streaming

        assert sink.data.endswith(b"data: [DONE]\n\n")


async def test_refusal_keeps_its_status(start, make_call, sink, sim, function):
    """A 4xx of the server before the first chunk comes back as it was."""
    backend = await start(function)

    with pytest.raises(UpstreamRejectedError) as caught:
        await backend.stream(make_call(BODY.replace(b"sim-model", b"other")), sink)

    assert caught.value.upstream.status == 404
    assert sink.content_type == ""


async def test_stream_that_breaks_is_no_success(start, make_call, sink, sim):
    """A connection to the server that breaks amid the answer ends the stream in an error."""
    backend = await start()
    sim.faults.add(CutAfterEvents(count=5))

    with pytest.raises(StreamTruncatedError):
        await backend.stream(make_call(BODY), sink)


async def test_silence_is_no_end(start, make_call, sink, sim, function):
    """A stream that falls silent ends in an error, by the call's own bound."""
    backend = await start(function)
    sim.faults.add(StallAfterEvents(count=30))

    with pytest.raises(BackendTimeoutError) as caught:
        await backend.stream(make_call(BODY, idle_s=1.0, first_chunk_s=30.0), sink)

    assert caught.value.metadata["bound"] in {"idle", "first_chunk"}


async def test_streams_need_a_secret(start, make_call, sink):
    """Without a shared secret nothing listens, and streams are refused."""
    backend = await start(streaming={"listen": "127.0.0.1:0"})

    with pytest.raises(UnsupportedError):
        await backend.stream(make_call(BODY), sink)


async def test_overload_before_the_stream(start, make_call, sink, sim, function):
    """A 500 of the server before the first chunk is the server's fault, not an answer."""
    backend = await start(function)
    sim.faults.add(ErrorStatus(status=500))

    with pytest.raises(BackendUnavailableError):
        await backend.stream(make_call(BODY), sink)
    assert sink.data == b""


NAMED = [
    pytest.param(
        Operation.MESSAGE,
        b"""{"model": "sim-model", "max_tokens": 20, "stream": true,
         "messages": [{"role": "user", "content": "Hi"}]}""",
        b"event: message_stop\n",
        id="message",
    ),
    pytest.param(
        Operation.RESPONSE,
        b'{"model": "sim-model", "stream": true, "input": "Hi"}',
        b"event: response.completed\n",
        id="response",
    ),
]


@pytest.mark.parametrize(("operation", "body", "end"), NAMED)
async def test_dialects_with_named_events(*, start, make_call, sink, sim, operation, body, end):
    """Streams that have no `[DONE]` end with their own event, names and data together."""
    backend = await start()

    await backend.stream(make_call(body, operation), sink)

    whole = [event for event in sink.data.split(b"\n\n") if event]
    assert whole[-1].startswith(end)
    assert all(event.startswith(b"event: ") and b"\ndata: " in event for event in whole)


@pytest.mark.parametrize(("operation", "body", "end"), NAMED)
async def test_end_that_todays_function_drops_is_an_error(
    *, start, make_call, sink, sim, operation, body, end
):
    """Today's function sends its last lines only at `[DONE]`, which these dialects do not have."""
    backend = await start("registered")

    with pytest.raises((StreamTruncatedError, BackendUnavailableError)):
        await backend.stream(make_call(body, operation), sink)
