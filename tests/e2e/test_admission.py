"""Who gets in, who waits and is told so, and who is sent away with the truth."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

import pytest

from first_core.client import RouterClient, connect
from first_core.errors import OverloadedError
from first_core.testing.clock import FakeClock
from first_core.testing.simulator import (
    ErrorStatus,
    Simulator,
    SimulatorSettings,
    StallAfterEvents,
    StallBeforeHead,
)
from first_core.types import EndpointState
from first_proto.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DONE = b"data: [DONE]"
BOUND = 4
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])


class Counted(Simulator):
    """A simulator that remembers the most calls that it ever worked on at once."""

    peak_count = 0

    def _changed(self) -> None:
        self.peak_count = max(self.peak_count, self.running_count + self.waiting_count)
        super()._changed()


@pytest.fixture
async def counted() -> AsyncIterator[Counted]:
    """A server whose tokens take a millisecond each, so that calls meet."""
    settings = SimulatorSettings(
        models=("m",), natural_token_count=8, token_interval_s=0.001, first_token_delay_s=0.001
    )
    async with Counted(settings) as simulator:
        yield simulator


def full(bound: int = 1, **admission: Any) -> dict[str, Any]:
    """Return settings under which a server is full with `bound` calls."""
    return {"endpoints": [{"max_in_flight": bound}], "admission": admission}


def call_of(text: str = "hi", *, stream: bool = True) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream}


class Holder:
    """Holds the only slot of a server until it is told to let go."""

    def __init__(self, gateway: Any, sim: Any) -> None:
        self._gateway = gateway
        self._sim = sim
        self.release = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._sim.faults.add(StallAfterEvents(count=1, gate=self.release))
        self._task = asyncio.create_task(self._gateway.chat("held", stream=True))
        await self._sim.wait_running(1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        answer = await self._task
        assert answer.events[-1] == DONE


@pytest.fixture
def post(open_gateway):
    """Send a chat call with headers."""

    async def send(gateway: Any, text: str = "hi", *, stream: bool = True, **headers: str) -> Any:
        body = call_of(text, stream=stream)
        return await gateway.post("/v1/chat/completions", body, **headers)

    return send


async def test_no_server_gets_more_than_its_bound(open_gateway, counted, until):
    """Of 120 calls at once never more than the bound reach the server, and all are answered."""
    async with open_gateway(counted, **full(BOUND)) as gateway:
        answers = await asyncio.gather(
            *(gateway.chat(f"{n}", stream=n % 2 == 0) for n in range(120))
        )
        await until(lambda: gateway.gate("a").in_flight_count == 0)

    assert {answer.status for answer in answers} == {200}
    assert counted.peak_count == BOUND


async def test_the_bound_holds_when_calls_fail(open_gateway, counted):
    """Attempts that fail give their place back once, not twice."""
    resilience = {"max_attempts": 3, "same_endpoint_wait_s": 0.001}
    async with open_gateway(counted, **full(BOUND), resilience=resilience) as gateway:
        counted.faults.add(ErrorStatus(status=500), times=40)
        await asyncio.gather(*(gateway.chat(f"{n}", stream=n % 2 == 0) for n in range(60)))
        gate = gateway.gate("a")
        left = (gate.in_flight_count, len(gate.queue))

    assert counted.peak_count <= BOUND
    assert left == (0, 0)


async def test_a_full_server_sends_calls_to_the_other_one(open_gateway, sim, other_sim, post):
    """Waiting is for who finds no room anywhere."""
    async with (
        open_gateway(sim, other_sim, **full()) as gateway,
        Holder(gateway, sim),
    ):
        answer = await post(gateway, x_first_wait="0")

    assert (answer.status, answer.headers["x-first-endpoint"]) == (200, "b/vllm/m")


async def test_interactive_calls_go_before_batch_calls(open_gateway, sim, post, until):
    """Who comes first goes first, but for batch calls, which go when no other is left."""
    order = ["batch 1", "batch 2", "person 1", "batch 3", "person 2"]
    async with open_gateway(sim, **full()) as gateway:
        tasks = []
        async with Holder(gateway, sim):
            for count, text in enumerate(order, start=1):
                headers = {"x_first_priority": "batch"} if "batch" in text else {}
                tasks.append(asyncio.create_task(post(gateway, text, **headers)))
                await until(lambda count=count: len(gateway.gate("a").queue) == count)
        answers = [await task for task in tasks]

    asked = [json.loads(body)["messages"][0]["content"] for *_, body in sim.posts]
    assert {answer.status for answer in answers} == {200}
    assert asked == ["held", "person 1", "person 2", "batch 1", "batch 2", "batch 3"]


async def test_who_waits_is_told_where_it_stands(open_gateway, sim, post, until):
    """A streamed call with `x-first-wait` gets comments now and then, and its answer."""
    clock = FakeClock()
    async with open_gateway(sim, clock=clock, **full(progress_s=5.0)) as gateway:
        holder = Holder(gateway, sim)
        async with holder, gateway.dial() as client:
            ahead = asyncio.create_task(post(gateway))
            await until(lambda: len(gateway.gate("a").queue) == 1)
            body = json.dumps(call_of()).encode()
            client.send("POST", "/v1/chat/completions", body, x_first_wait="60")
            head = await client.head()
            told = [await client.part()]
            clock.advance(5.0)
            told.append(await client.part())
            holder.release.set()
            answer = await client_rest(client)
            await ahead

    assert (head.status, head.media_type) == (200, "text/event-stream")
    assert told == [b": state=ready position=2\n\n"] * 2
    assert answer.endswith(DONE + b"\n\n")
    assert b"error" not in answer


async def client_rest(client: Any) -> bytes:
    parts = []
    while part := await client.part():
        parts.append(part)
    return b"".join(parts)


async def test_who_does_not_say_how_long_it_waits_sees_no_comments(open_gateway, sim, post, until):
    """Without `x-first-wait` a call waits in silence, so that an error can still be a status."""
    async with open_gateway(sim, **full()) as gateway:
        async with Holder(gateway, sim):
            task = asyncio.create_task(post(gateway))
            await until(lambda: len(gateway.gate("a").queue) == 1)
        answer = await task

    assert answer.events[0].startswith(b"data: ")
    assert answer.headers["x-first-attempts"] == "1"


async def test_a_wait_that_was_for_nothing_ends_in_an_error_event(open_gateway, sim):
    """After comments the status is out, so the end of the budget is told inside the stream."""
    clock = FakeClock()
    async with open_gateway(sim, clock=clock, **full()) as gateway, Holder(gateway, sim):
        async with gateway.dial() as client:
            body = json.dumps(call_of()).encode()
            client.send("POST", "/v1/chat/completions", body, x_first_wait="10")
            await client.head()
            await client.part()
            clock.advance(4.0)
            for _ in range(3):
                await asyncio.sleep(0)
            clock.advance(7.0)
            rest = await client_rest(client)
        queued_count = len(gateway.gate("a").queue)

    assert b'"code":"overloaded"' in rest
    assert DONE not in rest
    assert queued_count == 0


async def test_a_server_that_is_away_is_waited_for(open_gateway, sim, until):
    """A call that would wait for a server that is down is told so, and answered when it is back."""
    async with open_gateway(sim) as gateway:
        await sim.pause_listening()
        await gateway.wait_catalog(_is_down, bound_s=10)
        async with gateway.dial() as client:
            body = json.dumps(call_of()).encode()
            client.send("POST", "/v1/chat/completions", body, x_first_wait="60")
            await client.head()
            told = await client.part()
            await sim.resume_listening()
            answer = await client_rest(client)

    assert told == b": state=down\n\n"
    assert answer.endswith(DONE + b"\n\n")


def _is_down(routes: Any) -> bool:
    return bool(routes.model("m").state is EndpointState.DOWN)


@STREAMED
async def test_without_a_budget_a_full_server_is_503(open_gateway, sim, post, stream):
    """`x-first-wait: 0` means now or never; `Retry-After` says when it is worth to come again."""
    async with open_gateway(sim, **full()) as gateway, Holder(gateway, sim):
        answer = await post(gateway, stream=stream, x_first_wait="0")

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "overloaded"
    assert "x-first-attempts" not in answer.headers


@STREAMED
async def test_without_a_budget_a_server_that_is_away_is_503(open_gateway, sim, post, stream):
    """Nobody waits for a model that is not ready unless it, or the site, says so."""
    async with open_gateway(sim) as gateway:
        await sim.pause_listening()
        await gateway.wait_catalog(_is_down, bound_s=10)
        answer = await post(gateway, stream=stream)

    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert answer.json()["error"]["code"] == "endpoint_cold"


async def test_retry_after_follows_the_queue(open_gateway, sim, post, until):
    """Where a place comes free every 3 s and two calls wait, a third is told 9 s."""
    clock = FakeClock()
    gates = [asyncio.Event() for _ in range(6)]
    async with open_gateway(sim, clock=clock, **full()) as gateway:
        for gate in gates:
            sim.faults.add(StallBeforeHead(gate=gate))
        tasks = [asyncio.create_task(post(gateway, f"{n}", x_first_wait="60")) for n in range(6)]
        await until(lambda: len(gateway.gate("a").queue) == 5)
        for count, gate in enumerate(gates[:3], start=1):
            await sim.wait_running(1)
            clock.advance(3.0)
            gate.set()
            await until(lambda count=count: len(gateway.gate("a").queue) == 5 - count)
        refused = await post(gateway, x_first_wait="0")
        for gate in gates:
            gate.set()
        answers = [await task for task in tasks]

    assert (refused.status, refused.headers["retry-after"]) == (503, "9")
    assert {answer.events[-1] for answer in answers} == {DONE}


async def test_a_full_queue_sends_calls_away_at_once(open_gateway, sim, post, until):
    """Beyond `admission.max_queue` nobody waits, whatever budget it has."""
    async with open_gateway(sim, **full(max_queue=2)) as gateway:
        async with Holder(gateway, sim):
            tasks = [asyncio.create_task(post(gateway)) for _ in range(2)]
            await until(lambda: len(gateway.gate("a").queue) == 2)
            refused = await post(gateway, x_first_wait="60")
        answers = [await task for task in tasks]

    assert refused.status == 503
    assert {answer.status for answer in answers} == {200}


async def test_who_leaves_the_queue_gives_its_place_up(open_gateway, sim, post, until):
    """A client that leaves while it waits is asked for nothing, and the next one moves up."""
    async with open_gateway(sim, **full()) as gateway:
        async with Holder(gateway, sim):
            async with gateway.dial() as client:
                body = json.dumps(call_of("gone")).encode()
                client.send("POST", "/v1/chat/completions", body)
                await until(lambda: len(gateway.gate("a").queue) == 1)
            await until(lambda: len(gateway.gate("a").queue) == 0)
            task = asyncio.create_task(post(gateway, "next"))
            await until(lambda: len(gateway.gate("a").queue) == 1)
        await task

    asked = [json.loads(body)["messages"][0]["content"] for *_, body in sim.posts]
    assert asked == ["held", "next"]


async def grpc_call(gateway: Any, wait_s: int) -> list[Any]:
    """Stream a call over gRPC and return its messages."""
    messages: list[Any] = []

    async def receive(message: Any) -> None:
        messages.append(message)

    call = inference_pb2.CallRequest(
        operation=common_pb2.OPERATION_CHAT, body=json.dumps(call_of()).encode()
    )
    call.wait_budget.FromSeconds(wait_s)
    channel = connect(gateway.grpc_target)
    try:
        await RouterClient(channel).stream(inference_pb2.StreamCallRequest(call=call), receive)
    finally:
        await channel.close()
    return messages


async def test_grpc_clients_get_progress_messages(open_gateway, sim, until):
    """Before the head come messages that say what a call waits for, and at which place."""
    async with open_gateway(sim, **full()) as gateway:
        async with Holder(gateway, sim):
            task = asyncio.create_task(grpc_call(gateway, 60))
            await until(lambda: len(gateway.gate("a").queue) == 1)
        progress, head, *_, trailer = await task

    assert progress.kind == inference_pb2.STREAM_EVENT_KIND_PROGRESS
    assert progress.progress.queue_position == 1
    assert progress.progress.state == common_pb2.ENDPOINT_STATE_READY
    assert head.kind == inference_pb2.STREAM_EVENT_KIND_HEAD
    assert trailer.kind == inference_pb2.STREAM_EVENT_KIND_TRAILER


async def test_grpc_clients_without_a_budget_get_the_wait(open_gateway, sim):
    """UNAVAILABLE with `RetryInfo` is what a status 503 with `Retry-After` is in gRPC."""
    async with open_gateway(sim, **full()) as gateway, Holder(gateway, sim):
        with pytest.raises(OverloadedError) as caught:
            await grpc_call(gateway, 0)

    assert caught.value.retry_after_s == 1.0
