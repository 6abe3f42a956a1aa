"""The testbed: real SDK, real agent, real broker; only the cloud's web service is stood in for."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent import AgentProcess
from cloud import PORT, Cloud
from tls import TlsFront, make_certificate

from first_core.clock import SystemClock
from first_core.plugin import BackendContext, Call
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointId, Operation, Timeouts
from first_globus import functions
from first_globus.backend import GlobusBackend
from first_globus.settings import GlobusSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from first_core.plugin import EndpointReport

STREAM_SECRET = "stand-in-stream-secret"  # noqa: S105 - known to everybody

BODY = b'{"model": "sim-model", "messages": [{"role": "user", "content": "Hi \xf0\x9f\x9a\x80"}]}'


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(240))


def _lacks() -> str:
    try:
        socket.create_connection(("127.0.0.1", 5672), 2).close()
    except OSError:
        return "needs RabbitMQ on 127.0.0.1:5672 (Debian: apt install rabbitmq-server)"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT))
        except OSError:
            return f"needs port {PORT}, which the agent has no setting for"
    return ""


@pytest.fixture(scope="session")
def cloud() -> Iterator[Cloud]:
    lack = _lacks()
    if lack and os.environ.get("CI"):
        pytest.fail(lack)
    if lack:
        pytest.skip(lack)
    service = Cloud()
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    # Not below pytest's own folder: the agent runs as another user, who may not enter it.
    path = Path(tempfile.mkdtemp(prefix="first-globus-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def certificate(folder) -> tuple[Path, Path]:
    return make_certificate(folder)


@pytest.fixture(scope="session")
def make_agent(cloud, folder, certificate) -> Iterator[Callable[..., AgentProcess]]:
    agents: list[AgentProcess] = []

    def make(name: str) -> AgentProcess:
        home = folder / name
        home.mkdir()
        environ = {
            "FIRST_SERVER_CA_FILE": str(certificate[0]),
            "INTERNAL_STREAMING_SECRET": STREAM_SECRET,
        }
        agents.append(AgentProcess(cloud, home, environ))
        return agents[-1]

    yield make
    for agent in agents:
        agent.stop()


@pytest.fixture(scope="session")
def shared_agent(make_agent) -> AgentProcess:
    agent = make_agent("shared")
    agent.start()
    return agent


@pytest.fixture
async def agent(cloud, shared_agent) -> AgentProcess:
    """An agent that is online. All tests share it, since its start takes seconds."""
    cloud.reset()
    await cloud.wait(lambda: cloud.is_online(shared_agent.id))
    return shared_agent


@pytest.fixture(scope="session")
def function_ids(cloud) -> dict[str, str]:
    """Both functions, registered: ours, and one as sites have it today."""
    ours = functions.source("inference")
    theirs = (Path(__file__).parent / "registered.py").read_text()
    return {
        "first_inference": cloud.add_function("first_inference", ours),
        "registered": cloud.add_function("registered", theirs),
    }


@pytest.fixture(params=["first_inference", "registered"])
def function(request) -> str:
    """Each of the two."""
    return request.param


class Published:
    """What a backend published, and a way to wait for it."""

    def __init__(self) -> None:
        self.reports: list[EndpointReport] = []
        self._came = asyncio.Event()

    def __call__(self, reports: Sequence[EndpointReport]) -> None:
        self.reports = list(reports)
        self._came.set()

    async def wait(self, condition: Callable[[list[EndpointReport]], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition(self.reports):
                self._came.clear()
                await self._came.wait()


class Sink:
    """Keeps what a stream brings."""

    def __init__(self) -> None:
        self.content_type = ""
        self.data = b""
        self.came = asyncio.Event()
        self.hold: asyncio.Event | None = None

    def start(self, content_type: str) -> None:
        self.content_type = content_type

    def write(self, data: bytes) -> bool:
        self.data += data
        self.came.set()
        return self.hold is not None

    async def drain(self) -> None:
        if self.hold is not None:
            await self.hold.wait()


@pytest.fixture
async def published() -> Published:
    return Published()


@pytest.fixture
async def sink() -> Sink:
    return Sink()


@pytest.fixture
def sim_settings() -> SimulatorSettings:
    return SimulatorSettings()


@pytest.fixture
async def sim(sim_settings) -> AsyncIterator[Simulator]:
    async with Simulator(sim_settings) as simulator:
        yield simulator


@pytest.fixture
async def server(sim, certificate) -> AsyncIterator[TlsFront]:
    async with TlsFront(*certificate, sim.port) as front:
        yield front


@pytest.fixture
async def start(
    *, cloud, agent, server, function_ids, published, tmp_path, monkeypatch
) -> AsyncIterator[Callable]:
    """Start backends in front of the testbed, which are stopped after the test."""
    monkeypatch.setenv("TEST_GLOBUS_SECRET", cloud.client_secret)
    monkeypatch.setenv("TEST_STREAM_SECRET", STREAM_SECRET)
    started: list[GlobusBackend] = []

    async def make(function: str = "first_inference", *, cluster=None, **fields) -> GlobusBackend:
        one = {
            "name": "polaris",
            "endpoint_uuid": agent.id,
            "function_uuid": function_ids.get(function, function),
            "api_port": server.port,
            "models": ["sim-model"],
            **(cluster or {}),
        }
        settings = {
            "client_id": cloud.client_id,
            "client_secret": {"env": "TEST_GLOBUS_SECRET"},
            "service_url": cloud.url,
            "auth_url": cloud.url,
            "clusters": [one],
            "rate": {"requests": 10_000, "file": str(tmp_path / "rate")},
            "streaming": {"listen": "127.0.0.1:0", "secret": {"env": "TEST_STREAM_SECRET"}},
            **fields,
        }
        backend = GlobusBackend(GlobusSettings(**settings), BackendContext(SystemClock(), None))
        started.append(backend)
        await backend.start(published)
        return backend

    yield make
    for backend in started:
        await backend.stop()


@pytest.fixture
def make_call() -> Callable[..., Call]:
    def make(body: bytes = BODY, operation: Operation = Operation.CHAT, **timeouts) -> Call:
        return Call(
            operation=operation,
            endpoint=EndpointId("polaris", "vllm", "sim-model"),
            body=body,
            content_type="application/json",
            headers={},
            timeouts=Timeouts(**{"first_chunk_s": 60.0, **timeouts}),
        )

    return make
