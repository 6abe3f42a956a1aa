from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import uvloop

from first_core.plugin import Answer, BackendContext, Call
from first_core.plugin.http import HttpUpstream, UpstreamSettings
from first_core.plugin.http.pool import PoolCarrier
from first_core.plugin.http.session import SessionCarrier
from first_core.testing.clock import FakeClock
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointId, Operation, Timeouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

CHAT = b'{"model": "sim-model", "messages": [{"role": "user", "content": "Hi"}], "n\\u00e9": 1}'
STREAMED_CHAT = CHAT[:-1] + b', "stream": true}'

ON_BOTH_LOOPS = {"test_pool.py", "test_stream.py", "test_tls.py"}
"""Files whose rules rest on what a transport does."""


def pytest_asyncio_loop_factories(config, item):
    loops = {"asyncio": asyncio.new_event_loop}
    if item.path.name in ON_BOTH_LOOPS:
        loops["uvloop"] = uvloop.new_event_loop
    return loops


class RecordingSink:
    """Keeps what it gets; says that its reader is behind while `is_behind`."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.pieces: list[bytes] = []
        self.is_behind = False
        self.caught_up = asyncio.Event()
        self.drain_began = asyncio.Event()
        self.first_write = asyncio.Event()

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def start(self, content_type: str) -> None:
        assert not self.pieces
        self.started.append(content_type)

    def write(self, data: bytes) -> bool:
        assert self.started
        self.pieces.append(data)
        self.first_write.set()
        return self.is_behind

    async def drain(self) -> None:
        self.drain_began.set()
        await self.caught_up.wait()


CARRIERS = {
    "pool": PoolCarrier,
    "session": SessionCarrier,
}


@pytest.fixture(params=sorted(CARRIERS))
def carrier(request: pytest.FixtureRequest):
    return CARRIERS[request.param]


@pytest.fixture
def clock() -> FakeClock:
    """Stands still, so no bound is hit unless a test moves it."""
    return FakeClock()


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings()) as simulator:
        yield simulator


@pytest.fixture
async def connect(carrier, clock) -> AsyncIterator[Callable]:
    """Make upstreams that are stopped after the test."""
    made: list[HttpUpstream] = []

    async def make(url: str, **settings) -> HttpUpstream:
        upstream = HttpUpstream(
            url,
            settings=UpstreamSettings(**settings),
            context=BackendContext(clock, None),
            make_carrier=carrier,
        )
        await upstream.start()
        made.append(upstream)
        return upstream

    yield make
    for upstream in made:
        await upstream.stop()


@pytest.fixture
async def upstream(connect, sim) -> HttpUpstream:
    return await connect(sim.url)


@pytest.fixture
async def sink() -> RecordingSink:
    return RecordingSink()


@pytest.fixture
def make_call() -> Callable[..., Call]:
    """Make a chat call; further arguments are bounds."""

    def make(
        body: bytes = CHAT,
        *,
        operation: Operation = Operation.CHAT,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
        **timeouts: float | None,
    ) -> Call:
        return Call(
            operation=operation,
            endpoint=EndpointId("local", "vllm", "sim-model"),
            body=body,
            content_type=content_type,
            headers=headers or {},
            timeouts=Timeouts(**timeouts),
        )

    return make


@pytest.fixture
def call(upstream, make_call):
    """Run a call on the simulator."""

    async def run(body: bytes = CHAT, *, own: dict[str, str] | None = None, **fields) -> Answer:
        made = make_call(body, **fields)
        return await upstream.call(made.operation.path, made, headers=own or {})

    return run


@pytest.fixture
def stream(upstream, make_call, sink):
    """Stream a call on the simulator into `sink`."""

    async def run(body: bytes = STREAMED_CHAT, *, own=None, **fields) -> None:
        made = make_call(body, **fields)
        sink.pieces.clear()
        await upstream.stream(made.operation.path, made, sink, headers=own or {})

    return run


class SilentPort:
    """Accepts connections and says nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = asyncio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    def accept(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.accepted.set()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def silent_port() -> AsyncIterator[SilentPort]:
    silent = SilentPort()
    server = await asyncio.start_server(silent.accept, "127.0.0.1", 0)
    silent.port = server.sockets[0].getsockname()[1]
    yield silent
    silent.close()
    server.close()
    await server.wait_closed()
