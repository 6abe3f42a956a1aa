"""A front and a router in processes of their own: each may go and come back."""

from __future__ import annotations

import asyncio

import openai
import pytest

from first_core.testing.simulator import StallAfterEvents


@pytest.fixture
def carrier() -> str:
    """Only apart can one be there without the other."""
    return "apart"


async def test_a_front_whose_router_is_away_says_503(gateway):
    """Calls, lists and readiness are refused as unavailable; the front itself is healthy."""
    await gateway.router.stop()
    answer = await gateway.chat()
    stream = await gateway.chat(stream=True)
    ready = await gateway.get("/ready")
    health = await gateway.get("/health")
    base = f"{gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key="k", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.models.list()

    assert (answer.status, stream.status, ready.status, health.status) == (503, 503, 503, 200)
    assert caught.value.status_code == 503
    assert gateway.grpc_target not in answer.body.decode()


async def test_a_router_that_comes_back_is_found(open_gateway, sim, gateway):
    """Within three seconds a front calls a router that was away and listens again."""
    await gateway.router.stop()
    away = await gateway.chat()
    async with open_gateway(sim, grpc={"listen": gateway.grpc_target}), asyncio.timeout(3):
        while (back := await gateway.chat()).status != 200:
            assert back.status == 503

    assert away.status == 503


async def test_a_stream_whose_router_goes_ends_in_an_error_event(gateway, sim):
    """A router that stops amid a stream leaves an error event and no end mark."""
    sim.faults.add(StallAfterEvents(count=2))
    async with gateway.dial() as client:
        body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
        client.send("POST", "/v1/chat/completions", body)
        await client.head()
        await client.part()
        server = gateway.router._grpc
        server.end_calls()
        await server.stop()
        rest = b""
        while part := await client.part():
            rest += part

    assert b'"error"' in rest
    assert b"[DONE]" not in rest
    await sim.wait_aborts(1)
