"""`first chat`."""

from __future__ import annotations

import asyncio
import json
import os
import pty

import pytest

from first_core.testing.simulator import CutAfterEvents, StallAfterEvents


@pytest.fixture
async def target(cli, settings):
    async with cli.running("serve", "--config", settings) as gateway:
        target = await gateway.address("grpc")
        await gateway.wait_told("curl")
        yield target


@pytest.fixture
def bodies(sim):
    """What the simulator got, as JSON."""

    def read():
        return [json.loads(body) for _, path, _, body in sim.received if "chat" in path]

    return read


class Terminal:
    """A person at `first chat`."""

    def __init__(self, cli):
        self._cli = cli
        self._text = ""
        self._read = 0
        self._more = asyncio.Event()

    async def start(self, *args):
        self._main, other = pty.openpty()
        self._process = await self._cli.start_on(other, *args)
        os.close(other)
        os.set_blocking(self._main, False)
        asyncio.get_running_loop().add_reader(self._main, self._on_data)

    def _on_data(self):
        try:
            self._text += os.read(self._main, 4096).decode()
        except OSError:  # the other side is gone
            asyncio.get_running_loop().remove_reader(self._main)
        self._more.set()

    async def wait_shown(self, text):
        """Wait until `text` is shown after what was waited for before."""
        async with asyncio.timeout(30):
            while (at := self._text.find(text, self._read)) < 0:
                self._more.clear()
                await self._more.wait()
        self._read = at + len(text)

    def type(self, text):
        os.write(self._main, text.encode())

    async def ended(self):
        async with asyncio.timeout(30):
            return await self._process.wait()

    async def close(self):
        asyncio.get_running_loop().remove_reader(self._main)
        os.close(self._main)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@pytest.fixture
async def terminal(cli):
    terminal = Terminal(cli)
    yield terminal
    await terminal.close()


async def test_chat_prints_the_answer(cli, target):
    """With a prompt it prints one answer, and nothing else, to standard output."""
    ended = await cli("chat", "m", "hello", "--router", target)

    assert ended.code == 0
    assert ended.out.startswith("(simulated)")
    assert ended.out.count("\n") == 1
    assert ended.err == ""


async def test_chat_reads_the_prompt_from_a_pipe(cli, target, bodies):
    """Without a prompt, what comes on standard input is the prompt."""
    ended = await cli("chat", "m", "--router", target, stdin="summarise this")

    assert ended.code == 0
    assert bodies()[-1]["messages"] == [{"role": "user", "content": "summarise this"}]


async def test_chat_passes_options_on(cli, target, bodies):
    """Options become fields of the body; those not given are left out."""
    await cli("chat", "m", "hi", "--router", target, "--system", "be brief", "--max-tokens", "3")

    body = bodies()[-1]
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert body["max_tokens"] == 3
    assert "temperature" not in body


async def test_chat_tells_an_unknown_model(cli, target):
    """The router's error becomes one line, and exit code 1."""
    ended = await cli("chat", "nope", "hi", "--router", target)

    assert ended.code == 1
    assert ended.err.startswith("NOT_FOUND: the model 'nope' does not exist")
    assert "Traceback" not in ended.err


async def test_chat_tells_a_wrong_cluster(cli, target):
    """`--cluster` restricts the call."""
    ended = await cli("chat", "m", "hi", "--router", target, "--cluster", "south")

    assert ended.code == 1
    assert "is not served on 'south'" in ended.err


async def test_chat_tells_a_cut_answer(cli, target, sim):
    """An answer that breaks off ends with 1 after the text that came."""
    sim.faults.add(CutAfterEvents(count=4))

    ended = await cli("chat", "m", "hi", "--router", target)

    assert ended.code == 1
    assert ended.out == "(simulated\n"
    assert "STREAM_TRUNCATED" in ended.err


async def test_chat_without_router(cli):
    """Where no router answers, it says so."""
    ended = await cli("chat", "m", "hi", "--router", "127.0.0.1:1")

    assert ended.code == 1
    assert ended.err.startswith("no router answers at 127.0.0.1:1")


async def test_chat_is_interrupted(cli, target, sim):
    """Ctrl-C during the only answer ends it with 130, quietly, and stops the work."""
    sim.faults.add(StallAfterEvents(count=3))
    async with cli.running("chat", "m", "hi", "--router", target) as asking:
        await sim.wait_running(1)
        code = await asking.end()
    await sim.wait_aborts(1)

    assert code == 130
    assert asking.told == ""


async def test_chat_remembers_the_conversation(terminal, target, bodies):
    """At a terminal each question goes with what was said before; Ctrl-D ends it with 0."""
    await terminal.start("chat", "m", "--router", target)
    await terminal.wait_shown("> ")
    terminal.type("first question\n")
    await terminal.wait_shown("(simulated)")
    await terminal.wait_shown("> ")
    terminal.type("second question\n")
    await terminal.wait_shown("(simulated)")
    await terminal.wait_shown("> ")
    terminal.type("\x04")

    assert await terminal.ended() == 0
    roles = [message["role"] for message in bodies()[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_chat_goes_on_after_an_error(terminal, target, sim):
    """At a terminal a failed question is told, and the next one works."""
    await terminal.start("chat", "m", "--router", target)
    await terminal.wait_shown("> ")
    sim.faults.add(CutAfterEvents(count=4))
    terminal.type("hello\n")
    await terminal.wait_shown("STREAM_TRUNCATED")
    await terminal.wait_shown("> ")
    terminal.type("hello\n")
    await terminal.wait_shown("(simulated)")
    await terminal.wait_shown("> ")


async def test_chat_stops_an_answer(terminal, target, sim):
    """Ctrl-C during an answer stops the work at the server and keeps the conversation."""
    await terminal.start("chat", "m", "--router", target)
    await terminal.wait_shown("> ")
    sim.faults.add(StallAfterEvents(count=4))
    terminal.type("hello\n")
    await terminal.wait_shown("(simulated")
    terminal.type("\x03")
    await terminal.wait_shown("[stopped]")
    await terminal.wait_shown("> ")
    await sim.wait_aborts(1)

    assert sim.running_count == 0
