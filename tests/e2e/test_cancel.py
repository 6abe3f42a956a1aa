"""A client that leaves stops the work, in each window of a call, streamed or not."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai
import pytest

from first_core.telemetry import CANCELLED
from first_core.testing.simulator import StallAfterEvents, StallAfterHead, StallBeforeHead

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from first_core.testing.simulator import Simulator

BOUND_S = 10.0

STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])


def chat(*, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "m", "messages": messages, "stream": stream}).encode()


class Silence(asyncio.Protocol):
    """A server that accepts and never says a word; TLS towards it never gets done."""

    def __init__(self) -> None:
        self.met = asyncio.Event()
        self.left = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.met.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.left.set()


@asynccontextmanager
async def silent_server() -> AsyncIterator[tuple[int, Silence]]:
    """Listen, and hand every connection to one `Silence`."""
    silence = Silence()
    server = await asyncio.get_running_loop().create_server(lambda: silence, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], silence
    finally:
        server.close()
        await server.wait_closed()


@STREAMED
async def test_leaving_while_connecting_drops_the_connection(open_gateway, stream):
    """A client that leaves during the TLS handshake with the upstream ends that handshake."""
    async with silent_server() as (port, silence):
        provider = {"name": "p", "base_url": f"https://127.0.0.1:{port}/v1", "models": ["m"]}
        async with open_gateway(direct={"providers": [provider]}) as gateway:
            async with gateway.dial() as client:
                client.send("POST", "/v1/chat/completions", chat(stream=stream))
                async with asyncio.timeout(BOUND_S):
                    await silence.met.wait()
            async with asyncio.timeout(BOUND_S):
                await silence.left.wait()
            records = await gateway.watch.wait(1)

    assert records[0].error_reason == CANCELLED


@STREAMED
@pytest.mark.parametrize("fault", [StallBeforeHead(), StallAfterHead()], ids=["head", "body"])
async def test_leaving_before_the_first_byte_stops_the_upstream(gateway, sim, stream, fault):
    """A client that leaves before the head, or before the first chunk, aborts the work."""
    sim.faults.add(fault)
    async with gateway.dial() as client:
        client.send("POST", "/v1/chat/completions", chat(stream=stream))
        await sim.wait_running(1)

    await sim.wait_aborts(1)
    await sim.wait_idle()
    assert (await gateway.watch.wait(1))[0].error_reason == CANCELLED


async def test_leaving_amid_a_stream_stops_the_upstream(gateway, sim):
    """A client that leaves amid a stream aborts the work."""
    sim.faults.add(StallAfterEvents(count=3))
    async with gateway.dial() as client:
        client.send("POST", "/v1/chat/completions", chat(stream=True))
        await client.head()
        assert await client.part()

    await sim.wait_aborts(1)
    await sim.wait_idle()
    assert (await gateway.watch.wait(1))[0].error_reason == CANCELLED


async def test_leaving_a_full_server_gives_up_the_place_in_its_queue(open_gateway, sim):
    """A client that leaves while the engine has no slot for it leaves the engine's queue."""
    sim.engine.max_running = 1
    gate = asyncio.Event()
    sim.faults.add(StallAfterHead(gate=gate))
    async with open_gateway(sim) as gateway, gateway.dial() as first:
        first.send("POST", "/v1/chat/completions", chat(stream=True))
        await sim.wait_running(1)
        async with gateway.dial() as second:
            second.send("POST", "/v1/chat/completions", chat(stream=True))
            await sim.wait_waiting(1)
        await sim.wait_aborts(1)
        gate.set()
        answer = await first.answer()

    assert answer.events[-1] == b"data: [DONE]"


async def test_half_a_request_reaches_no_upstream(gateway, sim):
    """A client that leaves before its body is whole has asked for nothing."""
    async with gateway.dial() as client:
        client.send("POST", "/v1/chat/completions", b"{", content_length="100")
    await gateway.chat()

    assert len(sim.posts) == 1


async def test_a_client_that_does_not_read_holds_the_upstream_back(gateway, sim):
    """Of an answer of 100 MB that nobody reads, little leaves the upstream: each hop waits."""
    body = {"model": "m", "stream": True, "prompt": "x", "n": 64, "ignore_eos": True}
    body["max_tokens"] = 8000
    async with gateway.dial() as client:
        client.send("POST", "/v1/completions", json.dumps(body).encode())
        await client.head()
        async with asyncio.timeout(BOUND_S):
            await held_back(sim)
        assert sim.running_count == 1

    await sim.wait_aborts(1)
    assert (await gateway.watch.wait(1))[0].error_reason == CANCELLED


async def held_back(sim: Simulator) -> None:
    """Wait until the simulator could write nothing for a thousand turns of the loop."""
    turns = 0
    while turns < 1000:
        await asyncio.sleep(0)
        turns = turns + 1 if any(c.write_paused for c in sim._connections) else 0


@STREAMED
async def test_cancelling_the_openai_sdk_stops_the_upstream(gateway, sim, stream):
    """Cancelling the task that waits in the SDK aborts the work."""
    sim.faults.add(StallAfterEvents(count=2) if stream else StallBeforeHead())

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="k") as client:
            answer = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "hi"}], stream=stream
            )
            async for _ in answer:
                begun.set()

    begun = asyncio.Event()
    task = asyncio.create_task(run())
    await sim.wait_running(1)
    if stream:
        async with asyncio.timeout(BOUND_S):
            await begun.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    await sim.wait_aborts(1)
