"""Parts of the way that die, and what is left of the calls on it."""

from __future__ import annotations

import asyncio
import json

import pytest
from cable import Cable
from cloud import BROKER_URL, Fault

from first_core.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    StreamTruncatedError,
)
from first_core.testing.simulator import SimulatorSettings, StallBeforeHead
from first_core.types import EndpointState

STREAM = b'{"model": "sim-model", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'


def is_answer(answer) -> bool:
    return bool(json.loads(answer.body)["choices"])


async def test_killed_agent_ends_calls_by_their_deadline(start, make_call, cloud, sim):
    """A killed process loses its tasks without a word: the call's own bound ends it, and the next
    call finds a new process."""
    backend = await start()
    sim.faults.add(StallBeforeHead())
    lost = asyncio.create_task(backend.call(make_call(first_chunk_s=4.0)))
    await sim.wait_received(1)

    await asyncio.to_thread(cloud.kill_workers)

    with pytest.raises(BackendTimeoutError) as caught:
        await lost
    assert caught.value.work_started
    assert is_answer(await backend.call(make_call()))


class TestBroker:
    @pytest.fixture
    async def cable(self, cloud, agent):
        async with Cable(5672) as cable:
            cloud.gateway_broker_url = BROKER_URL.replace("5672", str(cable.port))
            yield cable
        cloud.gateway_broker_url = BROKER_URL

    async def test_lost_broker_loses_no_result(self, cable, start, make_call, cloud):
        """Results that come while the broker is away arrive once it is back."""
        backend = await start()
        await backend.call(make_call())

        cable.cut()
        calls = [asyncio.create_task(backend.call(make_call())) for _ in range(5)]
        await asyncio.wait_for(cable.refused.wait(), 30)
        cable.mend()

        assert all(is_answer(answer) for answer in await asyncio.gather(*calls))

    async def test_broker_that_never_comes_back(self, cable, start, make_call):
        """Without a broker a call ends by its own bound."""
        cable.cut()
        backend = await start()

        with pytest.raises(BackendTimeoutError):
            await backend.call(make_call(first_chunk_s=1.5))


async def test_service_that_is_not_there(start, published):
    """A service that cannot be reached leaves the endpoint down, and the start succeeds."""
    await start(service_url="http://127.0.0.1:9")

    assert published.reports[0].state is EndpointState.DOWN


async def test_state_outlives_a_failing_service(start, cloud, make_call, published):
    """A service that fails to tell the state leaves it as it was."""
    backend = await start(refresh_interval_s=0.05)
    before = cloud.counts["status"]

    cloud.faults["status"] = Fault(status=503, count=3)
    await cloud.wait(lambda: cloud.counts["status"] >= before + 4)

    assert published.reports[0].state is EndpointState.READY
    assert is_answer(await backend.call(make_call()))


async def test_slow_service_is_bounded_by_the_call(start, make_call, cloud):
    """A submit that hangs ends with its call, and holds up no other one."""
    backend = await start()
    cloud.faults["submit"] = Fault(delay_s=8.0)
    before = cloud.counts.get("submit", 0)
    slow = asyncio.create_task(backend.call(make_call(first_chunk_s=2.0)))
    await cloud.wait(lambda: cloud.counts.get("submit", 0) > before)

    assert is_answer(await backend.call(make_call()))
    with pytest.raises(BackendTimeoutError):
        await slow


async def test_dead_endpoint_beside_a_live_one(start, make_call, agent, function_ids, server):
    """One endpoint that is gone leaves the other as it is."""
    live = {
        "name": "polaris",
        "endpoint_uuid": agent.id,
        "function_uuid": function_ids["first_inference"],
        "api_port": server.port,
        "models": ["sim-model"],
    }
    dead = {**live, "name": "aurora", "endpoint_uuid": "00000000-0000-4000-8000-00000000dead"}
    backend = await start(clusters=[dead, live])

    assert is_answer(await backend.call(make_call()))


async def test_stopped_gateway_ends_its_calls(start, make_call, sim):
    """Calls in flight end in an error when the gateway stops; the next gateway works."""
    backend = await start()
    sim.faults.add(StallBeforeHead())
    calling = asyncio.create_task(backend.call(make_call()))
    await sim.wait_received(1)

    await backend.stop()

    with pytest.raises(BackendUnavailableError):
        await calling
    assert is_answer(await (await start()).call(make_call()))


async def test_calls_beyond_the_rate_share_requests(start, make_call, cloud, tmp_path):
    """More calls than the service takes requests go through together, within the rate."""
    rate = {"requests": 4, "period_s": 1.0, "file": str(tmp_path / "few")}
    backend = await start(rate=rate)

    answers = await asyncio.gather(*(backend.call(make_call()) for _ in range(40)))

    assert all(is_answer(answer) for answer in answers)
    assert len(cloud.submits) <= 8


class TestStreams:
    @pytest.fixture
    def sim_settings(self):
        return SimulatorSettings(token_interval_s=0.05, natural_token_count=60)

    async def test_killed_agent_ends_streams(self, start, make_call, cloud, sink, sim):
        """A process that is killed amid a stream ends it in an error, not as a success."""
        backend = await start()
        streaming = asyncio.create_task(backend.stream(make_call(STREAM, idle_s=2.0), sink))
        await asyncio.wait_for(sink.came.wait(), 30)

        await asyncio.to_thread(cloud.kill_workers)

        with pytest.raises(BackendTimeoutError) as caught:
            await streaming
        assert caught.value.metadata["bound"] == "idle"

    async def test_lost_requests_are_sent_again(self, start, make_call, sink, sim, unused_tcp_port):
        """Our function sends a chunk again until it has arrived, and it counts once."""
        listen = f"127.0.0.1:{unused_tcp_port}"
        async with Cable(unused_tcp_port) as cable:
            backend = await start(
                streaming={
                    "listen": listen,
                    "public_url": f"http://127.0.0.1:{cable.port}",
                    "secret": {"env": "TEST_STREAM_SECRET"},
                }
            )
            streaming = asyncio.create_task(backend.stream(make_call(STREAM), sink))
            await asyncio.wait_for(sink.came.wait(), 30)

            cable.cut()
            await asyncio.wait_for(cable.refused.wait(), 30)
            cable.mend()
            await streaming

        assert sink.data.endswith(b"data: [DONE]\n\n")
        assert sink.data.count(b"data: {") >= 60

    async def test_lost_lines_of_todays_function_are_an_error(
        self, start, make_call, sink, sim, unused_tcp_port
    ):
        """Lines that a function without numbers lost are noticed at the end."""
        async with Cable(unused_tcp_port) as cable:
            backend = await start(
                "registered",
                streaming={
                    "listen": f"127.0.0.1:{unused_tcp_port}",
                    "public_url": f"http://127.0.0.1:{cable.port}",
                    "secret": {"env": "TEST_STREAM_SECRET"},
                },
            )
            streaming = asyncio.create_task(backend.stream(make_call(STREAM), sink))
            await asyncio.wait_for(sink.came.wait(), 30)

            cable.cut()
            await asyncio.wait_for(cable.refused.wait(), 30)
            cable.mend()

            with pytest.raises(StreamTruncatedError):
                await streaming


async def test_stream_without_its_count_is_an_error(start, make_call, cloud, sink):
    """Where nobody tells how much today's function sent, the stream is not taken for whole."""
    backend = await start(
        "registered",
        streaming={
            "listen": "127.0.0.1:0",
            "secret": {"env": "TEST_STREAM_SECRET"},
            "confirm_timeout_s": 0.5,
        },
    )
    cloud.hold_results = True

    with pytest.raises(BackendError):
        await backend.stream(make_call(STREAM), sink)
    await asyncio.to_thread(cloud.release_results)
