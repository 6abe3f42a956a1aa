"""What tests can see of the simulator, and wait for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from first_core.testing.simulator import (
    Simulator,
    SimulatorSettings,
    StallAfterEvents,
    StallBeforeHead,
    run_simulator,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = "/v1/chat/completions"
NEVER_S = 3600.0


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


def call(session: aiohttp.ClientSession, sim: Simulator, **fields: Any) -> asyncio.Task[bytes]:
    async def run() -> bytes:
        async with session.post(sim.url + CHAT, json=body(**fields)) as answer:
            return await answer.read()

    return asyncio.get_running_loop().create_task(run())


async def give_up(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("stream", [False, True])
async def test_abort_before_the_first_token_is_counted(session, stream) -> None:
    """A client that leaves while the prompt is read frees its slot."""
    async with Simulator(SimulatorSettings(first_token_delay_s=NEVER_S)) as sim:
        task = call(session, sim, stream=stream)
        await sim.wait_running(1)
        await give_up(task)
        await sim.wait_aborts(1)

        assert (sim.abort_count, sim.running_count) == (1, 0)


async def test_abort_amid_a_stream_is_counted(session) -> None:
    """A client that leaves after some tokens stops the stream."""
    async with Simulator(SimulatorSettings(token_interval_s=NEVER_S)) as sim:
        answer = await session.post(sim.url + CHAT, json=body(stream=True))
        await answer.content.readuntil(b"\n\n")
        answer.close()
        await sim.wait_aborts(1)

        assert sim.running_count == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_abort_in_the_queue_is_counted(session, stream) -> None:
    """A client that leaves before its call has a slot leaves the queue."""
    settings = SimulatorSettings(first_token_delay_s=NEVER_S, max_running=1)
    async with Simulator(settings) as sim:
        running = call(session, sim)
        await sim.wait_running(1)
        queued = call(session, sim, stream=stream)
        await sim.wait_waiting(1)
        await give_up(queued)
        await sim.wait_aborts(1)

        assert (sim.running_count, sim.waiting_count) == (1, 0)
        await give_up(running)


async def test_abort_of_a_stalled_call_is_counted(session) -> None:
    """A client may also leave a call that a fault holds."""
    async with Simulator() as sim:
        sim.faults.add(StallBeforeHead())
        task = call(session, sim)
        await sim.wait_running(1)
        await give_up(task)
        await sim.wait_aborts(1)
        await sim.wait_idle()


async def test_complete_calls_are_no_aborts(session) -> None:
    """Neither an answered call nor the connection it leaves behind counts."""
    async with Simulator() as sim:
        await call(session, sim)
        await call(session, sim, stream=True)
        await session.close()

        assert sim.abort_count == 0


async def test_calls_past_the_bound_wait_their_turn(session) -> None:
    """One slot, three calls: all are answered, never two at a time."""
    async with Simulator(SimulatorSettings(max_running=1)) as sim:
        gate = asyncio.Event()
        sim.faults.add(StallAfterEvents(count=2, gate=gate))
        tasks = [call(session, sim, stream=True)]
        await sim.wait_running(1)
        tasks += [call(session, sim, stream=True), call(session, sim)]
        await sim.wait_waiting(2)
        async with session.get(sim.url + "/metrics") as answer:
            metrics = await answer.text()
        gate.set()
        answers = await asyncio.gather(*tasks)

        assert 'vllm:num_requests_waiting{engine="0",model_name="sim-model"} 2.0' in metrics
        assert 'vllm:num_requests_running{engine="0",model_name="sim-model"} 1.0' in metrics
        assert 'vllm:kv_cache_usage_perc{engine="0",model_name="sim-model"} 1.0' in metrics
        assert [b"(simul" in answer or b"simul" in answer for answer in answers] == [True] * 3


async def test_long_queue_of_instant_calls_is_worked_off(session) -> None:
    """Many waiting calls that need no time do not overflow the stack."""
    async with Simulator(SimulatorSettings(max_running=1)) as sim:
        gate = asyncio.Event()
        sim.faults.add(StallBeforeHead(gate=gate))
        tasks = [call(session, sim)]
        await sim.wait_running(1)
        tasks += [call(session, sim) for _ in range(60)]
        await sim.wait_waiting(60)
        gate.set()
        await asyncio.gather(*tasks)

        assert sim.running_count == 0


async def test_pace_spaces_the_tokens(session) -> None:
    """A stream of n tokens takes the first delay and n - 1 intervals, as does a whole answer."""
    settings = SimulatorSettings(first_token_delay_s=0.02, token_interval_s=0.01)
    async with Simulator(settings) as sim:
        loop = asyncio.get_running_loop()
        start = loop.time()
        await call(session, sim, max_tokens=4, stream=True)
        middle = loop.time()
        await call(session, sim, max_tokens=4)
        end = loop.time()

    assert middle - start >= 0.05
    assert end - middle >= 0.05


async def test_received_is_bounded_and_its_count_is_not(session) -> None:
    """Old requests are dropped, and counted all the same."""
    async with Simulator(SimulatorSettings(received_limit=2)) as sim:
        for _ in range(3):
            await call(session, sim)
        await sim.wait_received(3)

        assert (len(sim.received), sim.received_count) == (2, 3)


async def test_wait_ends_in_an_error_when_nothing_happens() -> None:
    """A wait has a bound, so that a broken test does not hang."""
    async with Simulator() as sim:
        with pytest.raises(TimeoutError):
            await sim.wait_aborts(1, timeout_s=0.001)


async def test_server_goes_and_comes_on_the_same_port(session) -> None:
    """While it is away connections are refused; then it answers at the same address."""
    async with Simulator() as sim:
        url = sim.url
        await call(session, sim)
        await sim.pause_listening()
        with pytest.raises(aiohttp.ClientConnectorError):
            await call(session, sim)
        await sim.resume_listening()
        await call(session, sim)

        assert sim.url == url


async def test_pause_may_leave_calls_alone(session) -> None:
    """Without `drop` a call that runs ends well."""
    async with Simulator() as sim:
        gate = asyncio.Event()
        sim.faults.add(StallBeforeHead(gate=gate))
        task = call(session, sim)
        await sim.wait_running(1)
        await sim.pause_listening(drop=False)
        gate.set()

        assert b"(simulated)" in await task


async def test_stop_drops_all_connections_and_can_repeat(session) -> None:
    """After `stop` nothing is open, however often it is called; `start` works again."""
    sim = Simulator(SimulatorSettings(first_token_delay_s=NEVER_S))
    await sim.stop()
    await sim.start()
    await sim.start()
    task = call(session, sim)
    await sim.wait_running(1)
    await sim.stop()
    await sim.stop()
    with pytest.raises(aiohttp.ClientConnectionError):
        await task

    assert (sim.connection_count, sim.running_count) == (0, 0)
    await sim.start()
    await sim.stop()


async def test_run_simulator_serves_until_cancelled(session) -> None:
    """It tells when it listens, and leaves nothing behind."""
    started: asyncio.Future[Simulator] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(
        run_simulator(SimulatorSettings(), port=0, on_start=started.set_result)
    )
    sim = await started
    answer = await call(session, sim)
    await give_up(running)

    assert b"(simulated)" in answer
    assert sim.connection_count == 0
