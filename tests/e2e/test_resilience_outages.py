"""Servers that go and come back, that drip, and that move: in simulated time, on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from first_core.testing.clock import FakeClock
from first_core.testing.simulator import ErrorStatus, Raw

DONE = b"data: [DONE]"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
NAME = "engine.test"

AWAY_BACK_S = 4
"""A server that did not listen is back in use this soon: it is looked at each 2 s at most."""

FAILING_BACK_S = 16
"""One that answered 500 while its health was good: the breaker's longest pause is 15 s."""


async def call_each_second(gateway: Any, clock: FakeClock, seconds: int) -> list[tuple[int, str]]:
    """Send one call each simulated second and return status and endpoint of each."""
    found = []
    for number in range(seconds):
        answer = await gateway.chat(stream=number % 2 == 0)
        found.append((answer.status, answer.headers.get("x-first-endpoint", "")))
        clock.advance(1.0)
        for _ in range(200):  # what the timers began goes on: looks at servers, above all
            await asyncio.sleep(0)
    return found


@pytest.mark.parametrize("outage_s", [6, 60])
async def test_an_outage_costs_no_call(open_gateway, sim, other_sim, outage_s):
    """While a server is away the other one answers each call; soon after, it is in use again."""
    clock = FakeClock()
    async with open_gateway(sim, other_sim, resilience={}, clock=clock) as gateway:
        before = await call_each_second(gateway, clock, 2)
        await sim.pause_listening()
        during = await call_each_second(gateway, clock, outage_s)
        await sim.resume_listening()
        after = await call_each_second(gateway, clock, AWAY_BACK_S)

    assert set(before) == {(200, "a/vllm/m")}
    assert set(during) == {(200, "b/vllm/m")}
    assert {status for status, _ in after} == {200}
    assert after[-1] == (200, "a/vllm/m")


@pytest.mark.parametrize("outage_s", [6, 60])
async def test_an_engine_that_fails_behind_a_good_health_costs_no_call(
    open_gateway, sim, other_sim, outage_s
):
    """The breaker keeps calls away and lets one find out now and then; none is lost by it."""
    clock = FakeClock()
    async with open_gateway(sim, other_sim, resilience={}, clock=clock) as gateway:
        sim.faults.add(ErrorStatus(status=500), times=None)
        during = await call_each_second(gateway, clock, outage_s)
        asked_count = len(sim.posts)
        sim.faults.clear()
        after = await call_each_second(gateway, clock, FAILING_BACK_S)

    assert set(during) == {(200, "b/vllm/m")}
    assert asked_count <= 3 + outage_s // 4
    assert {status for status, _ in after} == {200}
    assert after[-1] == (200, "a/vllm/m")


async def test_a_slow_drip_is_healthy(open_gateway, sim):
    """A stream whose events are 50 s apart goes on for ten minutes: only silence is bounded."""
    clock = FakeClock()
    async with open_gateway(sim, timeouts={"idle_s": 60.0}, clock=clock) as gateway:
        whole = await gateway.chat(stream=True)
        gates = [asyncio.Event() for _ in range(12)]
        sim.faults.add(Raw(script=dripping(whole.events, gates), end="keep"))
        parts = []
        async with gateway.dial() as client:
            client.send("POST", "/v1/chat/completions", json.dumps(CHAT).encode())
            head = await client.head()
            for gate in gates:
                parts.append(await client.part())
                clock.advance(50.0)
                gate.set()
            while part := await client.part():
                parts.append(part)

    assert head.status == 200
    assert b"".join(parts) == whole.body


async def test_silence_past_the_bound_ends_a_drip(open_gateway, sim):
    """The same stream ends in an error where one gap is longer than `timeouts.idle_s`."""
    clock = FakeClock()
    async with open_gateway(sim, timeouts={"idle_s": 60.0}, clock=clock) as gateway:
        whole = await gateway.chat(stream=True)
        gates = [asyncio.Event(), asyncio.Event()]
        sim.faults.add(Raw(script=dripping(whole.events, gates)))
        async with gateway.dial() as client:
            client.send("POST", "/v1/chat/completions", json.dumps(CHAT).encode())
            await client.head()
            await client.part()
            clock.advance(50.0)
            gates[0].set()
            await client.part()
            clock.advance(61.0)
            last = await client.part()

    assert b"backend_timeout" in last
    assert DONE not in last


def dripping(events: list[bytes], gates: list[asyncio.Event]) -> tuple[bytes | asyncio.Event, ...]:
    """Return a script that sends an event before each gate, and the rest behind the last one."""
    script: list[bytes | asyncio.Event] = [HEAD]
    for event, gate in zip(events, gates, strict=False):
        script += [_chunk(event + b"\n\n"), gate]
    rest = b"".join(event + b"\n\n" for event in events[len(gates) :])
    return (*script, _chunk(rest) + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that lead to other addresses than this machine's resolver says."""
    found: dict[str, str] = {}
    lookup = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        return lookup(found.get(host, host), *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return found


async def test_a_server_that_moves_is_found_at_its_new_address(open_gateway, sim, names):
    """After its name leads elsewhere, a server that was restarted there answers the next call."""
    await sim.stop()
    await sim.start("127.0.0.2")
    port, names[NAME] = sim.port, "127.0.0.2"
    servers = [{"url": f"http://{NAME}:{port}", "cluster": "a"}]
    async with open_gateway(vllm={"servers": servers}, resilience={}) as gateway:
        before = await gateway.chat()
        await sim.stop()
        names[NAME] = "127.0.0.3"
        await sim.start("127.0.0.3", port)
        after = await gateway.post("/v1/chat/completions", CHAT, x_first_wait="5")

    assert (before.status, after.status) == (200, 200)
    assert after.events[-1] == DONE


async def test_a_name_that_moves_is_followed_while_the_old_server_lives(
    open_gateway, sim, other_sim, names
):
    """Connections that are in steady use are made anew within minutes, so names are read again."""
    for server, address in ((sim, "127.0.0.2"), (other_sim, "127.0.0.3")):
        await server.stop()
        await server.start(address, sim.port)
    names[NAME] = "127.0.0.2"
    clock = FakeClock()
    servers = [{"url": f"http://{NAME}:{sim.port}", "cluster": "a"}]
    async with open_gateway(vllm={"servers": servers}, clock=clock) as gateway:
        await gateway.chat()
        names[NAME] = "127.0.0.3"
        for _ in range(11):
            clock.advance(30.0)
            answer = await gateway.chat()

    assert answer.status == 200
    assert len(other_sim.posts) >= 1
