"""Many calls at the same time never mix, and leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    Garbage,
    NoDone,
    Refuse,
    Simulator,
    SimulatorSettings,
    SplitWrites,
)

CALLS = 300
METRICS = {"metrics_listen": "127.0.0.1:0"}


def text_of(answer: Any) -> str:
    """Return the text of an answer, streamed or not."""
    if answer.media_type == "application/json":
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [event.removeprefix(b"data: ") for event in answer.events if b"[DONE]" not in event]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def ids_of(answer: Any) -> set[str]:
    """Return the ids that an answer's events or body name."""
    return set(re.findall(r'"id":"chatcmpl-([^"]+)"', answer.body.decode()))


async def test_parallel_calls_never_mix(open_gateway, sim, straight):
    """Of 300 calls at once, streamed and plain, each gets the answer to its own prompt."""

    async def expected(number: int) -> str:
        body = {"model": "m", "messages": [{"role": "user", "content": f"prompt {number}"}]}
        data = json.dumps(body).encode()
        return text_of(await straight(sim.url, "POST", "/v1/chat/completions", data))

    async def got(number: int) -> Any:
        message = {"role": "user", "content": f"prompt {number}"}
        body = {"model": "m", "messages": [message], "stream": number % 2 == 0}
        return await gateway.post("/v1/chat/completions", body, x_request_id=f"call-{number}")

    wanted = await asyncio.gather(*(expected(number) for number in range(CALLS)))
    async with open_gateway(sim, telemetry=METRICS) as gateway:
        answers = await asyncio.gather(*(got(number) for number in range(CALLS)))
        in_flight = await gateway.sample("first_calls_in_flight")

    assert len(set(wanted)) > CALLS * 0.9
    assert [ids_of(answer) for answer in answers] == [{f"call-{n}"} for n in range(CALLS)]
    assert [text_of(answer) for answer in answers] == list(wanted)
    assert (in_flight, sim.running_count) == (0, 0)


async def test_requests_in_turn_on_one_connection_never_mix(gateway):
    """A connection that is used again and again gives each request its own answer."""
    ids = []
    async with gateway.dial() as client:
        for number in range(40):
            message = {"role": "user", "content": f"prompt {number}"}
            body = {"model": "m", "messages": [message], "stream": number % 3 == 0}
            data = json.dumps(body).encode()
            client.send("POST", "/v1/chat/completions", data, x_request_id=f"call-{number}")
            ids.append(ids_of(await client.answer()))

    assert ids == [{f"call-{number}"} for number in range(40)]


async def test_faults_of_some_calls_touch_no_other(open_gateway, sim):
    """With a third of the upstream's answers spoilt, each call ends well or in an error."""
    drawn = (
        *(ErrorStatus(status=500), ErrorStatus(status=429), Refuse(), Garbage(), NoDone()),
        *(CutAfterEvents(count=3), CutAfterEvents(count=5, reset=True), SplitWrites()),
    )
    settings = SimulatorSettings(
        models=("m",), seed=sim.settings.seed, fault_ratio=0.3, random_faults=drawn
    )

    async def one(number: int) -> str:
        answer = await gateway.chat(f"prompt {number}", stream=number % 2 == 0)
        if answer.status != 200 or b'"error"' in answer.body:
            assert b"[DONE]" not in answer.body
            return "error"
        return text_of(answer)

    async with Simulator(settings) as spoilt:
        async with open_gateway(sim) as gateway:
            good = await asyncio.gather(*(one(number) for number in range(100)))
        async with open_gateway(spoilt, telemetry=METRICS) as gateway:
            mixed = await asyncio.gather(*(one(number) for number in range(100)))
            in_flight = await gateway.sample("first_calls_in_flight")
        await spoilt.wait_idle()

    assert "error" not in good
    assert {text for text, own in zip(mixed, good, strict=True) if text != own} == {"error"}
    assert in_flight == 0


async def test_clients_that_leave_at_random_leave_nothing(open_gateway, sim):
    """Half of 100 clients leave at some point; the others get their answers, and nothing stays."""
    draw = random.Random(3)  # noqa: S311 - a fixed sequence is wanted
    stay = [draw.random() < 0.5 for _ in range(100)]

    async def one(number: int) -> set[str]:
        message = {"role": "user", "content": f"prompt {number}"}
        body = {"model": "m", "messages": [message], "stream": number % 2 == 0}
        async with gateway.dial() as client:
            data = json.dumps(body).encode()
            client.send("POST", "/v1/chat/completions", data, x_request_id=f"call-{number}")
            for _ in range(draw.randrange(60)):
                await asyncio.sleep(0)
            return ids_of(await client.answer()) if stay[number] else set()

    async with open_gateway(sim, telemetry=METRICS) as gateway:
        ids = await asyncio.gather(*(one(number) for number in range(100)))
        whole = await gateway.chat("the last one", stream=True)
        await sim.wait_idle()
        await gateway.watch.wait(sum(stay) + 1)

    assert ids == [{f"call-{number}"} if stay[number] else set() for number in range(100)]
    assert whole.events[-1] == b"data: [DONE]"


async def test_a_gateway_that_stops_closes_everything(open_gateway, sim):
    """After it has stopped, no file, socket or task of it is left, and its port is free."""
    async with open_gateway(sim):  # what is loaded once only is loaded now
        pass
    before = _open_files()
    async with open_gateway(sim) as gateway:
        await asyncio.gather(*(gateway.chat(stream=number % 2 == 0) for number in range(20)))
        port = int(gateway.url.rpartition(":")[2])
    await sim._wait(lambda: not sim.connection_count, 10)
    gc.collect()

    assert _open_files() <= before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_stop_lets_calls_end_and_ends_the_rest(open_gateway, sim):
    """On a stop a stream that goes on gets its end, one that hangs an error event and no mark."""
    from first_core.testing.simulator import StallAfterEvents  # noqa: PLC0415 - here alone

    gate = asyncio.Event()
    http = {"listen": "127.0.0.1:0", "drain_s": 0.3}
    async with open_gateway(sim, http=http) as gateway:
        sim.faults.add(StallAfterEvents(count=2, gate=gate))
        sim.faults.add(StallAfterEvents(count=2))
        async with gateway.dial() as going, gateway.dial() as hanging:
            for client in (going, hanging):
                body = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
                client.send("POST", "/v1/chat/completions", body)
                await client.head()
                await client.part()
            stop = asyncio.create_task(gateway.processes[-1].stop())
            gate.set()
            ends = [await _rest(client) for client in (going, hanging)]
            await stop

    assert ends[0].endswith(b"data: [DONE]\n\n")
    assert b'"error"' in ends[1]
    assert b"[DONE]" not in ends[1]
    await sim.wait_aborts(1)


async def _rest(client: Any) -> bytes:
    parts = []
    while part := await client.part():
        parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_an_idle_connection_that_the_server_closed_is_replaced(gateway, sim, stream):
    """A pooled connection that died between two calls costs the client nothing."""
    await gateway.chat(stream=stream)
    for connection in list(sim._connections):
        connection.close()

    answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.headers["x-first-attempts"]) == (200, "1")
