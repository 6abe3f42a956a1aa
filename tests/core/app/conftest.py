"""Processes on real sockets, before simulated servers, and raw clients of them."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from first_core.app import Process, load_host, read_settings
from first_core.testing.simulator import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

BOUND_S = 20.0
"""Longest wait for anything, in seconds."""


class Answer:
    """One HTTP answer that is being read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def head(self) -> Answer:
        async with asyncio.timeout(BOUND_S):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.strip().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        return self

    async def wait(self, text: bytes) -> None:
        """Wait for bytes of the body."""
        async with asyncio.timeout(BOUND_S):
            await self._reader.readuntil(text)

    async def rest(self) -> bytes:
        """Read to the end of the connection."""
        async with asyncio.timeout(BOUND_S):
            return await self._reader.read()

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def request(url: str, method: str, path: str, document: Any = None) -> AsyncIterator[Answer]:
    """Send one request on a connection of its own."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = b"" if document is None else json.dumps(document).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    answer = Answer(reader, writer)
    try:
        yield await answer.head()
    finally:
        answer.close()


def chat_body(*, stream: bool = False, model: str = "m") -> dict[str, Any]:
    messages = [{"role": "user", "content": "hi"}]
    return {"model": model, "stream": stream, "messages": messages}


@pytest.fixture
def chat() -> Any:
    """Ask a model: `async with chat(url, stream=True) as answer`."""

    def ask(url: str, **options: Any) -> Any:
        return request(url, "POST", "/v1/chat/completions", chat_body(**options))

    return ask


@pytest.fixture
def get() -> Any:
    """Get a path and return status and document."""

    async def ask(url: str, path: str) -> tuple[int, Any]:
        async with request(url, "GET", path) as answer:
            return answer.status, json.loads(await answer.rest())

    return ask


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("m",), natural_token_count=8)) as sim:
        yield sim


@pytest.fixture
async def other_sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("m",), natural_token_count=8)) as sim:
        yield sim


@pytest.fixture
def settings_of() -> Any:
    """Return settings with one cluster for each simulator: `a`, `b`…"""

    def make(*sims: Simulator, **sections: Any) -> dict[str, Any]:
        servers = [{"url": s.url, "cluster": name} for name, s in zip("abc", sims, strict=False)]
        return {
            "http": {"listen": "127.0.0.1:0"},
            "grpc": {"listen": "127.0.0.1:0"},
            "log": {"level": "error"},
            "vllm": {"servers": servers},
            "direct": {"providers": []},
            **sections,
        }

    return make


class Opened:
    """A process that serves."""

    def __init__(self, process: Process, addresses: list[str]) -> None:
        self.process = process
        self.url = next((a for a in addresses if a.startswith("http://")), "")
        self.grpc = next((a for a in addresses if a.startswith("grpc://")), "")

    async def wait_ready(self, model: str = "m") -> None:
        """Wait until the router knows a ready endpoint of the model."""
        router = self.process.router
        assert router is not None
        async with asyncio.timeout(BOUND_S):
            while True:
                change = router.catalog.next_change()
                if any(e.is_ready for e in router.catalog.endpoints_of(model)):
                    return
                await change.wait()


@pytest.fixture
def open_process(tmp_path: Path) -> Any:
    """Start a process from settings; it is stopped with the block."""

    @asynccontextmanager
    async def opener(settings: dict[str, Any], **options: Any) -> AsyncIterator[Opened]:
        path = tmp_path / "first.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        host = load_host(path)
        process = Process(read_settings(path, host), host, **options)
        opened = Opened(process, await process.start())
        try:
            if process.router is not None:
                await opened.wait_ready()
            yield opened
        finally:
            process.end_calls()
            await process.stop()

    return opener
