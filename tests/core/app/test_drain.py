"""What a process does between the signal and its end."""

from __future__ import annotations

import asyncio

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from first_core.app.ending import Ending
from first_core.client import RouterClient, connect
from first_core.errors import OverloadedError
from first_core.testing.simulator import StallAfterEvents
from first_proto.v1 import common_pb2, inference_pb2

CALL = inference_pb2.CallRequest(
    operation=common_pb2.OPERATION_CHAT,
    body=b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}',
)


@pytest.fixture
async def gateway(open_process, settings_of, sim):
    async with open_process(settings_of(sim)) as opened:
        yield opened


@pytest.fixture
async def stream(gateway, sim, chat):
    """A stream that stalls after its first events, in flight."""
    sim.faults.add(StallAfterEvents(count=2))
    async with chat(gateway.url, stream=True) as answer:
        await answer.wait(b"data: ")
        yield answer


@pytest.fixture
async def draining(gateway, stream):
    """The drain of a gateway with one stream in flight."""
    task = asyncio.create_task(gateway.process.drain())
    await asyncio.sleep(0)
    yield task
    gateway.process.end_calls()
    await task


async def test_draining_is_not_ready(gateway, draining, get):
    """Balancers are told to go elsewhere, and a person why."""
    status, document = await get(gateway.url, "/ready")

    assert status == 503
    assert document["missing"] == "draining: 1 calls in flight, no new ones"


async def test_draining_refuses_new_calls(gateway, draining, chat):
    """A new call gets 503 with a time to come again, and its connection is closed."""
    async with chat(gateway.url) as answer:
        rest = await answer.rest()

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert b"stopping" in rest


async def test_draining_says_so_over_grpc(gateway, draining):
    """The standard health service says NOT_SERVING, and calls are refused for now."""
    channel = connect(gateway.grpc.removeprefix("grpc://"))
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    with pytest.raises(OverloadedError) as refused:
        await RouterClient(channel).call(CALL)
    await channel.close()

    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert refused.value.retry_after_s == 1


async def test_draining_waits_for_streams(gateway, draining, stream, sim):
    """A stream in flight goes on."""
    status_before = draining.done()
    gateway.process.end_calls()
    rest = await stream.rest()
    await draining

    assert not status_before
    assert b'data: {"error":' in rest
    assert b"[DONE]" not in rest


async def test_drain_ends_grpc_streams_in_an_error(gateway, sim):
    """A stream of a gRPC client that is ended fails with the reason."""
    sim.faults.add(StallAfterEvents(count=2))
    channel = connect(gateway.grpc.removeprefix("grpc://"))
    begun = asyncio.Event()

    async def receive(message):
        if message.data:
            begun.set()

    call = asyncio.create_task(
        RouterClient(channel).stream(inference_pb2.StreamCallRequest(call=CALL), receive)
    )
    await begun.wait()
    count = gateway.process.in_flight_count
    gateway.process.end_calls()
    with pytest.raises(OverloadedError, match="stopping"):
        await call
    await channel.close()

    assert count == 1


async def test_drain_is_bounded(open_process, settings_of, sim, chat):
    """After `drain_s` what is left ends in an error, on HTTP as on gRPC."""
    sim.faults.add(StallAfterEvents(count=2))
    async with (
        open_process(settings_of(sim, drain_s=0.05)) as gateway,
        chat(gateway.url, stream=True) as answer,
    ):
        await answer.wait(b"data: ")
        await gateway.process.stop()
        rest = await answer.rest()

    assert b'data: {"error":' in rest


class Calls:
    """A listener with two calls in flight."""

    in_flight_count = 2
    ended = False

    def end_calls(self):
        self.ended = True


async def test_first_signal_tells_what_is_in_flight():
    """A person learns what is waited for, how long, and how to stop it."""
    told = []
    ending = Ending(Calls(), 30.0, told.append)
    ending.ask()

    assert ending.asked.is_set()
    assert told == ["draining: 2 calls in flight, up to 30 s; again to stop now"]


async def test_second_signal_ends_calls():
    """Whoever asks twice does not wait."""
    calls = Calls()
    ending = Ending(calls, 30.0, lambda _: None)
    ending.ask()
    ended_before = calls.ended
    ending.ask()

    assert (ended_before, calls.ended) == (False, True)


async def test_ready_names_backends_without_endpoints(gateway, get):
    """A backend that is there and knows nothing is told."""
    status, document = await get(gateway.url, "/ready")

    assert status == 200
    assert "direct" in document["idle_backends"]
