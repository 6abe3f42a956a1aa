"""Clients that leave at a random moment leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from first_core.testing.simulator import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLIENTS = 1000
AT_ONCE = 50
SLOTS = 4
"""Calls in flight per server: most of 50 clients wait in the gateway's queue."""

LONGEST_STAY = 1500
"""Turns of the loop after which a client leaves at the latest; nearly all calls are done by then.
Drawn by its logarithm, since each step of a call takes longer than the one before."""

SIM = SimulatorSettings(
    models=("m",), seed=7, natural_token_count=10, token_interval_s=0.0003, received_limit=1
)


@pytest.fixture
async def replicas() -> AsyncIterator[list[Simulator]]:
    """Two servers of the model."""
    servers = [Simulator(SIM) for _ in range(2)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()


def chat(number: int) -> bytes:
    message = {"role": "user", "content": f"prompt {number}"}
    body = {"model": "m", "messages": [message], "stream": number % 2 == 0}
    return json.dumps(body).encode()


async def visit(gateway: Any, number: int, stay: int) -> None:
    """Send a call and leave after `stay` turns of the loop, whatever has come by then."""
    headers = {"x_first_wait": "60"} if number % 3 == 0 else {}
    async with gateway.dial() as client:
        client.send("POST", "/v1/chat/completions", chat(number), **headers)
        for _ in range(stay):
            await asyncio.sleep(0)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_quiet(gateway: Any, replicas: list[Simulator]) -> bool:
    """Tell whether nothing is in flight or waits anywhere."""
    gates = [gateway.gate(cluster) for cluster in "ab"]
    return not (
        any(gate.in_flight_count or len(gate.queue) for gate in gates)
        or any(server.running_count or server.waiting_count for server in replicas)
    )


async def test_clients_that_leave_at_random_leave_nothing(open_gateway, replicas, until):
    """After 1,000 of them no slot, ticket, task or socket is held, and the next call is quick."""
    draw = random.Random(5)  # noqa: S311 - a fixed sequence is wanted
    stays = [int(LONGEST_STAY ** draw.random()) for _ in range(CLIENTS)]
    endpoints = [{"max_in_flight": SLOTS}]
    async with open_gateway(*replicas, endpoints=endpoints) as gateway:
        await gateway.chat(stream=True)  # what is made once only is there now
        await gateway.chat()
        await until(lambda: is_quiet(gateway, replicas))
        tasks, files = asyncio.all_tasks(), open_files()
        for start in range(0, CLIENTS, AT_ONCE):
            numbers = range(start, start + AT_ONCE)
            await asyncio.gather(*(visit(gateway, n, stays[n]) for n in numbers))
        await until(lambda: is_quiet(gateway, replicas))
        await until(lambda: not _calls_left(tasks))
        answers = [await gateway.chat(stream=stream) for stream in (True, False)]
        gates = [gateway.gate(cluster) for cluster in "ab"]
        gc.collect()
        # Each server may have one connection kept for each slot.
        await until(lambda: open_files() <= files + 2 * 2 * SLOTS)

    ended = [record.error_reason for record in gateway.watch.records]
    assert {answer.status for answer in answers} == {200}
    assert [(gate.in_flight_count, len(gate.queue)) for gate in gates] == [(0, 0), (0, 0)]
    assert set(ended) == {"", "CANCELLED"}
    assert min(ended.count(""), ended.count("CANCELLED")) > CLIENTS / 100


def _calls_left(before: set[Any]) -> list[Any]:
    """Return the tasks of the gateway that were not there before, but for its connections."""
    names = [getattr(t.get_coro(), "__qualname__", "") for t in asyncio.all_tasks() - before]
    return [name for name in names if "Call" in name or "_connect" in name or "_open" in name]
