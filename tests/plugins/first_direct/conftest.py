from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from first_core.plugin import BackendContext, Call
from first_core.testing.clock import FakeClock
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointId, Operation, Timeouts
from first_direct.backend import DirectBackend
from first_direct.settings import DirectSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from first_core.plugin import EndpointReport


class Published:
    """What a backend published, and a way to wait for it."""

    def __init__(self) -> None:
        self.all: list[list[EndpointReport]] = []
        self._came = asyncio.Event()

    def __call__(self, reports: Sequence[EndpointReport]) -> None:
        self.all.append(list(reports))
        self._came.set()

    @property
    def models(self) -> dict[str, EndpointReport]:
        return {report.id.model: report for report in self.all[-1]} if self.all else {}

    async def wait(self, condition: Callable[[dict[str, EndpointReport]], bool]) -> None:
        while not condition(self.models):
            self._came.clear()
            await self._came.wait()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def published() -> Published:
    return Published()


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("gpt-sim", "other"))) as simulator:
        yield simulator


@pytest.fixture
def keys(monkeypatch) -> list[dict[str, str]]:
    """Two keys as the settings name them."""
    monkeypatch.setenv("KEY_ONE", "sk-one-0123456789")
    monkeypatch.setenv("KEY_TWO", "sk-two-0123456789")
    return [{"env": "KEY_ONE"}, {"env": "KEY_TWO"}]


@pytest.fixture
async def start(clock, published, sim) -> AsyncIterator[Callable]:
    """Start backends with one provider at the simulator, that are stopped after the test."""
    started: list[DirectBackend] = []

    async def make(**fields) -> DirectBackend:
        provider = {"name": "acme", "base_url": f"{sim.url}/v1", "models": ["gpt-sim"], **fields}
        backend = DirectBackend(DirectSettings(providers=[provider]), BackendContext(clock, None))
        started.append(backend)
        await backend.start(published)
        return backend

    yield make
    for backend in started:
        await backend.stop()


@pytest.fixture
def make_call() -> Callable[..., Call]:
    def make(
        operation: Operation = Operation.CHAT,
        *,
        headers: dict[str, str] | None = None,
        stream: bool = False,
        **endpoint: str,
    ) -> Call:
        names = {"cluster": "acme", "framework": "api", "model": "gpt-sim", **endpoint}
        return Call(
            operation=operation,
            endpoint=EndpointId(**names),
            body=json.dumps(
                {
                    "model": "gpt-sim",
                    "max_tokens": 5,
                    "messages": [{"role": "user", "content": "Hi"}],
                    "stream": stream,
                }
            ).encode(),
            content_type="application/json",
            headers=headers or {},
            timeouts=Timeouts(),
        )

    return make
