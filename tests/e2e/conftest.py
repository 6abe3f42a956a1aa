"""The real thing: simulators, backends, router, each carrier, HTTP front; and a raw HTTP client."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from first_core.app import Process, load_host, read_settings
from first_core.plugin import hookimpl
from first_core.testing.simulator import LoraAdapter, Received, Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from first_core.clock import Clock
    from first_core.domain.gate import Gate
    from first_core.telemetry import CallRecord

BOUND_S = 10.0
"""Longest wait for anything, in seconds. Nothing waits that long unless it is broken."""

_CREATED = re.compile(rb'"(created|created_at)":\d+')


@dataclass
class HttpAnswer:
    """One whole answer. `body` is without its transfer coding."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def timeless(self) -> bytes:
        """The body, with the one thing that changes from call to call made equal."""
        return _CREATED.sub(rb'"\1":0', self.body)

    @property
    def media_type(self) -> str:
        return self.headers["content-type"].partition(";")[0]

    @property
    def events(self) -> list[bytes]:
        """The server-sent events, blank lines dropped."""
        return [event for event in self.body.split(b"\n\n") if event]


class HttpClient:
    """Speaks HTTP/1.1 on one connection, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send one request; an underscore in a header's name stands for a hyphen."""
        fields = {"host": "gateway", "content_type": "application/json", **headers}
        if body or method == "POST":
            fields.setdefault("content_length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        self._writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def head(self) -> HttpAnswer:
        """Read up to the body, informational answers left out."""
        async with asyncio.timeout(BOUND_S):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        fields = dict(line.split(":", 1) for line in lines)
        headers = {name.strip().lower(): value.strip() for name, value in fields.items()}
        status = int(first.split(" ")[1])
        return await self.head() if status < 200 else HttpAnswer(status, headers, b"")

    async def part(self) -> bytes:
        """Read the next chunk of a chunked body; empty at its end."""
        async with asyncio.timeout(BOUND_S):
            size = int(await self._reader.readline(), 16)
            return (await self._reader.readexactly(size + 2))[:-2]

    async def answer(self, *, has_body: bool = True) -> HttpAnswer:
        """Read one whole answer."""
        answer = await self.head()
        if not has_body or answer.status in {204, 304}:
            return answer
        if answer.headers.get("transfer-encoding") == "chunked":
            while part := await self.part():
                answer.body += part
        else:
            length = int(answer.headers["content-length"])
            async with asyncio.timeout(BOUND_S):
                answer.body = await self._reader.readexactly(length)
        return answer

    async def wait_closed(self) -> bytes:
        """Wait until the other side closes, and return what it sent before."""
        async with asyncio.timeout(BOUND_S):
            return await self._reader.read()

    def abort(self) -> None:
        """Drop the connection, as a client that was killed."""
        self._writer.transport.abort()


@asynccontextmanager
async def dial(url: str) -> AsyncIterator[HttpClient]:
    """Connect to a server; leaving drops the connection."""
    parts = urlsplit(url)
    client = HttpClient(*await asyncio.open_connection(parts.hostname, parts.port))
    try:
        yield client
    finally:
        client.abort()


async def ask(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> HttpAnswer:
    """Send one request on a connection of its own and return the whole answer."""
    async with dial(url) as client:
        client.send(method, path, body, **headers)
        return await client.answer(has_body=method != "HEAD")


class CallWatch:
    """A plugin that keeps the record of each ended call."""

    def __init__(self) -> None:
        self.records: list[CallRecord] = []
        self._changed = asyncio.Event()

    @hookimpl
    def first_on_call_ended(self, record: CallRecord) -> None:
        self.records.append(record)
        self._changed.set()

    async def wait(self, count: int) -> list[CallRecord]:
        """Wait until `count` calls have ended, and return all records."""
        async with asyncio.timeout(BOUND_S):
            while len(self.records) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.records


@dataclass
class Gateway:
    """A gateway that listens."""

    url: str
    router: Process
    watch: CallWatch
    grpc_target: str = ""
    metrics_url: str = ""
    processes: list[Process] = field(default_factory=list)

    def dial(self) -> Any:
        """Connect: `async with gateway.dial() as client`."""
        return dial(self.url)

    async def get(self, path: str, **headers: str) -> HttpAnswer:
        return await ask(self.url, "GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> HttpAnswer:
        """Send bytes as they are, anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await ask(self.url, "POST", path, data, **headers)

    async def chat(self, text: str = "hi", *, model: str = "m", **fields: Any) -> HttpAnswer:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **fields}
        return await self.post("/v1/chat/completions", body)

    async def sample(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that have these labels, as a scrape shows it."""
        answer = await ask(self.metrics_url, "GET", "/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def gate(self, cluster: str) -> Gate:
        """Return the gate of the one endpoint on a cluster."""
        router = self.router.router
        assert router is not None
        return next(e.gate for e in router.catalog.endpoints() if e.id.cluster == cluster)

    async def wait_catalog(self, condition: Callable[[Any], bool], *, bound_s: float) -> None:
        """Wait until the router's models are as wanted; `condition` gets its routes."""
        router = self.router.router
        assert router is not None
        async with asyncio.timeout(bound_s):
            while not condition(router.routes):
                await router.catalog.next_change().wait()


async def _start(path: Path, watch: CallWatch | None, **options: Any) -> tuple[Process, list[str]]:
    host = load_host(path)
    if watch is not None:
        host.add("watch", watch)
    process = Process(read_settings(path, host), host, **options)
    return process, await process.start()


def _one(addresses: list[str], scheme: str) -> str:
    return next((address for address in addresses if address.startswith(scheme)), "")


@asynccontextmanager
async def _gateway(path: Path, carrier: str, clock: Clock | None) -> AsyncIterator[Gateway]:
    watch = CallWatch()
    apart = carrier == "apart"
    router, addresses = await _start(path, watch, with_fronts=not apart, clock=clock)
    processes = [router]
    try:
        target = _one(addresses, "grpc://").removeprefix("grpc://")
        url = metrics_url = _one(addresses, "http://").removesuffix("/metrics")
        if apart:
            front, addresses = await _start(path, None, router_target=target, clock=clock)
            processes.append(front)
            url = _one(addresses, "http://")
        yield Gateway(url, router, watch, target, metrics_url, processes)
    finally:
        for process in reversed(processes):
            await process.stop()


def settings_of(*sims: Simulator, backend: str = "vllm", **sections: Any) -> dict[str, Any]:
    """Return the settings of a gateway before these simulators, one cluster each: `a`, `b`…"""
    named = list(zip("abcdef", sims, strict=False))
    servers = [{"url": sim.url, "cluster": name, "probe_interval_s": 0.3} for name, sim in named]
    providers = [
        {
            "name": name,
            "base_url": f"{sim.url}/v1",
            "models": list(sim.settings.models),
            "operations": ["chat", "completion", "embedding", "response", "message", "rerank",
                           "score", "transcription", "message_token_count"],
        }
        for name, sim in named
    ]  # fmt: skip
    return {
        "http": {"listen": "127.0.0.1:0", "drain_s": 1},
        "grpc": {"listen": "127.0.0.1:0"},
        "log": {"level": "error"},
        "vllm": {"servers": servers if backend == "vllm" else []},
        "direct": {"providers": providers if backend == "direct" else []},
        # One attempt for each cluster: what an endpoint asked again would answer is tested apart.
        "resilience": {"max_attempts": max(1, len(sims)), "continuation": False},
        **sections,
    }


@pytest.fixture(params=["one_process", "apart"])
def carrier(request: pytest.FixtureRequest) -> str:
    """How the front reaches the router."""
    name: str = request.param
    return name


@pytest.fixture
def open_gateway(carrier: str, tmp_path: Path) -> Any:
    """Open a gateway from a settings file, with the installed plugins."""
    numbers = iter(range(100))

    def opener(*sims: Simulator, clock: Clock | None = None, **options: Any) -> Any:
        path = tmp_path / f"first-{next(numbers)}.yaml"
        path.write_text(yaml.safe_dump(settings_of(*sims, **options)), encoding="utf-8")
        return _gateway(path, carrier, clock)

    return opener


SIM = SimulatorSettings(
    models=("m",), lora_adapters=(LoraAdapter(name="org/lora", parent="m"),), seed=7
)


class Server(Simulator):
    """A simulator that tells calls from the gateway's looks at its state."""

    @property
    def posts(self) -> list[Received]:
        """The calls that came in whole, in order."""
        return [received for received in self.received if received[0] == "POST"]


@pytest.fixture
async def sim() -> AsyncIterator[Server]:
    """The inference server of cluster `a`, with the model `m`."""
    async with Server(SIM) as simulator:
        yield simulator


@pytest.fixture
async def other_sim() -> AsyncIterator[Server]:
    """The inference server of cluster `b`, with the same model."""
    async with Server(SIM) as simulator:
        yield simulator


@pytest.fixture
async def gateway(open_gateway: Any, sim: Simulator) -> AsyncIterator[Gateway]:
    """A gateway before `sim`, through the backend vllm."""
    async with open_gateway(sim) as opened:
        yield opened


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - what is watched tells nobody when it changes
            await asyncio.sleep(0)


@pytest.fixture
def until() -> Any:
    """Let the loop turn until something is so: `await until(lambda: …)`."""
    return _until


@pytest.fixture
def straight() -> Any:
    """Send one request to any server: `await straight(url, method, path, body, **headers)`."""
    return ask


@pytest.fixture(autouse=True)
async def _nothing_left() -> AsyncIterator[None]:
    """No test leaves a task of ours running."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if _is_ours(task)]

    assert left == []


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "first_" in code.co_filename


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's environment reaches the settings."""
    for name in ("LOCAL_VLLM_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
