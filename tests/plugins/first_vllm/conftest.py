from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from first_core.plugin import BackendContext, Call
from first_core.testing.clock import FakeClock
from first_core.testing.simulator import LoraAdapter, Simulator, SimulatorSettings
from first_core.types import EndpointId, Operation, Timeouts
from first_vllm.backend import VllmBackend
from first_vllm.settings import VllmSettings

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
    settings = SimulatorSettings(
        models=("llama",), lora_adapters=(LoraAdapter(name="tuned", parent="llama"),)
    )
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.fixture
async def start(clock, published, sim) -> AsyncIterator[Callable]:
    """Start backends for the simulator, or for other servers, that are stopped after the test."""
    started: list[VllmBackend] = []

    async def make(*servers: dict, **fields) -> VllmBackend:
        settings = VllmSettings(servers=list(servers) or [{"url": sim.url, **fields}])
        backend = VllmBackend(settings, BackendContext(clock, None))
        started.append(backend)
        await backend.start(published)
        return backend

    yield make
    for backend in started:
        await backend.stop()


@pytest.fixture
def make_call() -> Callable[..., Call]:
    def make(operation: Operation = Operation.CHAT, **endpoint: str) -> Call:
        names = {"cluster": "local", "framework": "vllm", "model": "llama", **endpoint}
        return Call(
            operation=operation,
            endpoint=EndpointId(**names),
            body=b'{"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}',
            content_type="application/json",
            headers={},
            timeouts=Timeouts(),
        )

    return make
