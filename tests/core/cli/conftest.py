"""Runs `first` as people do: as a process, waited for by what it prints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from first_core.testing.simulator import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

BOUND_S = 30.0
"""Longest wait for anything, in seconds; a start takes one on a busy machine."""

FIRST = str(Path(sys.executable).with_name("first"))

ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the terminal that controls the process, so that Ctrl-C reaches it."""


@dataclass
class Ended:
    """What a command did."""

    code: int | None
    out: str
    err: str


class Running:
    """A command that serves."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.told = ""

    async def type(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()

    async def wait_told(self, text: str) -> str:
        """Wait for a line on standard error that holds `text`, and return it."""
        assert self._process.stderr is not None
        async with asyncio.timeout(BOUND_S):
            while line := (await self._process.stderr.readline()).decode():
                self.told += line
                if text in line:
                    return line.strip()
        raise AssertionError(f"it ended without a word of {text!r}:\n{self.told}")

    async def address(self, scheme: str = "http") -> str:
        """Wait until it listens, and return the address, without `grpc://` in front."""
        line = await self.wait_told(f"listening on {scheme}://")
        return line.removeprefix("listening on ").removeprefix("grpc://")

    @property
    def is_running(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.is_running:
            self._process.send_signal(number)

    async def end(self, number: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        if self._process.returncode is None:
            self._process.send_signal(number)
        async with asyncio.timeout(BOUND_S):
            _, err = await self._process.communicate()
        self.told += err.decode()
        assert self._process.returncode is not None
        return self._process.returncode


class Cli:
    """Starts `first` in a folder of its own, with nothing of ours in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("FIRST_", "_FIRST")) and not name.endswith("_API_KEY")
        }

    def write(self, name: str, text: str) -> str:
        """Write a file, a settings file mostly, and return its path."""
        path = self.folder / name
        path.write_text(text)
        return str(path)

    async def __call__(self, *args: str, stdin: str | None = None) -> Ended:
        """Run a command to its end."""
        process = await self._start(*args)
        try:
            async with asyncio.timeout(BOUND_S):
                out, err = await process.communicate(None if stdin is None else stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
        return Ended(process.returncode, out.decode(), err.decode())

    @asynccontextmanager
    async def running(self, *args: str) -> AsyncIterator[Running]:
        """Run a command that serves; it is ended with the block."""
        running = Running(await self._start(*args))
        try:
            yield running
        finally:
            await running.end(signal.SIGTERM)

    async def start_on(self, terminal: int, *args: str) -> asyncio.subprocess.Process:
        """Start a command whose terminal is this file."""
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ON_TERMINAL, FIRST, *args),
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            cwd=self.folder,
            env={**self.env, "TERM": "dumb"},
            start_new_session=True,
        )

    async def _start(self, *args: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            FIRST, *args, stdin=pipe, stdout=pipe, stderr=pipe, cwd=self.folder, env=self.env
        )


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(models=("m", "other"), natural_token_count=8)) as sim:
        yield sim


@pytest.fixture
def settings(cli: Cli, sim: Simulator) -> str:
    """Path of a settings file that knows the simulator and listens on free ports."""
    return cli.write(
        "gateway.yaml",
        "http: {listen: 127.0.0.1:0}\n"
        "grpc: {listen: 127.0.0.1:0}\n"
        f"vllm: {{servers: [{{url: {sim.url}, cluster: north}}]}}\n",
    )


@pytest.fixture
def chat() -> Callable[[str, str], Awaitable[Any]]:
    """Ask a model over HTTP and return the answer's JSON."""

    async def ask(address: str, model: str = "m") -> Any:
        message = {"role": "user", "content": "hi"}
        body = json.dumps({"model": model, "messages": [message]}).encode()
        host, _, port = address.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        async with asyncio.timeout(BOUND_S):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    return ask
