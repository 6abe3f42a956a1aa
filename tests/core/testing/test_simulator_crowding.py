"""How the simulator gets slower while it is crowded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pytest

from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.testing.simulator.engine import slowdown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEVER_S = 3600.0


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        token_interval_s=NEVER_S, max_running=1, sweet_spot=1, crowding_ratio=0.5
    )
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.mark.parametrize(("call_count", "factor"), [(0, 1.0), (8, 1.0), (12, 1.25), (24, 2.0)])
def test_slowdown_is_a_line_beyond_the_sweet_spot(call_count: int, factor: float):
    """With `crowding_ratio` 0.5 each further sweet spot of calls adds a half."""
    assert slowdown(call_count, 8, 0.5) == factor


def test_slowdown_without_a_sweet_spot_is_none():
    """An engine keeps its pace unless it is told otherwise."""
    assert slowdown(10_000, None, 0.5) == 1.0


async def test_engine_counts_calls_that_wait(sim: Simulator):
    """A call that waits inside the engine slows down the one that runs."""
    async with aiohttp.ClientSession() as session:

        async def call() -> None:
            url = f"{sim.url}/v1/chat/completions"
            body = {"messages": [{"role": "user", "content": "hi"}]}
            async with session.post(url, json=body):
                pass

        calls = [asyncio.create_task(call()) for _ in range(2)]
        await sim.wait_waiting(1)
        crowded_s = sim.engine.token_interval_s
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await sim.wait_idle()

    assert crowded_s == 1.5 * NEVER_S
    assert sim.engine.token_interval_s == NEVER_S
