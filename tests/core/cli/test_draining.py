"""A process that is told to end while calls are in flight."""

from __future__ import annotations

import asyncio
import signal

import pytest

from first_core.testing.simulator import StallAfterEvents

STREAM = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'


@pytest.fixture
async def gateway(cli, settings):
    async with cli.running("serve", "--config", settings) as running:
        yield running
        running.send(signal.SIGTERM)


@pytest.fixture
async def stream(gateway, sim):
    """A stream that stalls after its first events."""
    sim.faults.add(StallAfterEvents(count=2))
    address = await gateway.address()
    await gateway.wait_told("models:")
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(STREAM)}\r\n\r\n"
    writer.write(head.encode() + STREAM)
    await reader.readuntil(b"data: ")
    yield reader
    writer.transport.abort()


async def test_first_signal_waits_for_streams(gateway, stream):
    """It tells what it waits for, and does not end."""
    gateway.send(signal.SIGTERM)
    line = await gateway.wait_told("draining")

    assert line == "draining: 1 call in flight, up to 30 s; again to stop now"
    assert gateway.is_running


async def test_second_signal_ends_at_once(gateway, stream):
    """What is left ends in an error event, and the process ends well."""
    gateway.send(signal.SIGINT)
    await gateway.wait_told("draining")
    code = await gateway.end(signal.SIGINT)
    rest = await stream.read()

    assert code == 0
    assert b'data: {"error":' in rest
    assert "Traceback" not in gateway.told
