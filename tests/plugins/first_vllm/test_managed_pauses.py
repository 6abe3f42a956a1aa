"""Pauses and expectations of managed servers, on a clock that the test moves."""

from __future__ import annotations

import asyncio
import sys

import pytest

from first_core.plugin import BackendContext
from first_core.testing.clock import FakeClock
from first_core.types import EndpointId, EndpointState
from first_vllm.backend import VllmBackend
from first_vllm.managed import MAX_QUICK_FAILURES
from first_vllm.settings import VllmSettings

BOUND_S = 30.0
MODEL = EndpointId("local", "vllm", "llama")

DIES_AT_FIRST = """
import asyncio, sys
from pathlib import Path
runs = Path(sys.argv[3])
runs.write_text(runs.read_text() + "x")
if len(runs.read_text()) <= int(sys.argv[4]):
    raise SystemExit("no luck")
from first_core.testing.simulator import SimulatorSettings, run_simulator
asyncio.run(run_simulator(SimulatorSettings(models=(sys.argv[2],)), port=int(sys.argv[1])))
"""


class PauseClock(FakeClock):
    """A clock that tells how long the server rests."""

    def __init__(self):
        super().__init__()
        self.pauses = []
        self._paused = asyncio.Event()

    async def sleep(self, delay_s):
        self.pauses.append(delay_s)
        self._paused.set()
        await super().sleep(delay_s)

    async def wait_pauses(self, count):
        async with asyncio.timeout(BOUND_S):
            while len(self.pauses) < count:
                self._paused.clear()
                await self._paused.wait()


@pytest.fixture
def clock():
    return PauseClock()


@pytest.fixture
def runs(tmp_path):
    """A file with one letter for each run."""
    path = tmp_path / "runs"
    path.write_text("")
    return path


@pytest.fixture
async def manage(published, clock, runs):
    """Start a backend with a server that dies in its first runs."""
    backends = []

    async def start(dies_count, **fields):
        code = [sys.executable, "-c", DIES_AT_FIRST, "{port}", "{model}", str(runs)]
        usual = {"start": "always", "start_timeout_s": 1e9, "restart_max_s": 100}
        managed = {"model": "llama", "command": [*code, str(dies_count)], **usual, **fields}
        backend = VllmBackend(VllmSettings(managed=[managed]), BackendContext(clock, None))
        backends.append(backend)
        await backend.start(published)
        return backend

    yield start
    for backend in backends:
        await backend.stop()


@pytest.fixture
def wait(published):
    """Wait until the model is in a state, within a bound."""

    async def until(state):
        async with asyncio.timeout(BOUND_S):
            await published.wait(lambda models: models["llama"].state is state)
        return published.models["llama"]

    return until


@pytest.fixture
def pass_until(published, clock):
    """Let the clock run until the model is in a state."""

    async def until(state):
        async with asyncio.timeout(BOUND_S):
            while published.models["llama"].state is not state:
                clock.advance(0.1)
                await asyncio.sleep(0)
        return published.models["llama"]

    return until


async def test_pause_doubles_up_to_the_longest(manage, clock):
    """One second, two, four; after some failures in a row the longest at once."""
    await manage(99, restart_min_s=1)
    for count in range(1, MAX_QUICK_FAILURES + 2):
        await clock.wait_pauses(count)
        clock.advance(clock.pauses[-1])

    assert clock.pauses == [1, 2, 4, 8, 100, 100]


async def test_server_without_luck_stays_down_until_it_is_ready(
    manage, pass_until, published, clock
):
    """Tried again after the longest pause, it does not count as starting before it is ready."""
    await manage(MAX_QUICK_FAILURES, restart_min_s=1)
    for count in range(1, MAX_QUICK_FAILURES):
        await clock.wait_pauses(count)
        clock.advance(clock.pauses[-1])
    await clock.wait_pauses(MAX_QUICK_FAILURES)
    seen = len(published.all)

    clock.advance(100)
    await pass_until(EndpointState.READY)

    assert {reports[0].state for reports in published.all[seen:]} == {EndpointState.READY}


async def test_expected_wait_is_what_the_last_start_took(manage, pass_until, wait, clock):
    """It is told while the server is cold, and grows shorter while it starts."""
    backend = await manage(0, idle_stop_s=50)
    await pass_until(EndpointState.READY)
    cold = await pass_until(EndpointState.COLD)

    backend.wake(MODEL)
    starting = await wait(EndpointState.STARTING)

    assert cold.expected_wait_s is not None
    assert cold.expected_wait_s >= starting.expected_wait_s >= 1
    await pass_until(EndpointState.READY)
