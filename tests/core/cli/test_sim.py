"""`first sim`."""

from __future__ import annotations

import signal
import socket

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_sim_says_what_it_is(cli, number):
    """It calls itself a simulator, names its models and address, and ends well on a signal."""
    async with cli.running("sim", "--port", "0", "--model", "a", "--model", "b") as sim:
        line = await sim.wait_told("simulated inference server")
        await sim.address()
        code = await sim.end(number)

    assert line == "simulated inference server (no model runs): a, b"
    assert code == 0
    assert "Traceback" not in sim.told


async def test_sim_answers_as_told(cli, chat):
    """Its options shape the answer."""
    options = ("--model", "m", "--tokens", "5", "--cluster", "north", "--seed", "7")
    async with cli.running("sim", "--port", "0", *options) as sim:
        answer = await chat(await sim.address())

    assert answer["model"] == "m"
    assert answer["usage"]["completion_tokens"] == 5
    assert "north" in answer["choices"][0]["message"]["content"]


async def test_sim_fails_as_told(cli, chat):
    """`--fault-ratio 1` lets no call pass; the first fault of this seed is an error status."""
    async with cli.running("sim", "--port", "0", "--fault-ratio", "1", "--seed", "1") as sim:
        answer = await chat(await sim.address(), "sim-model")

    assert answer["error"]["message"] == "Simulated failure"


async def test_sim_tells_that_a_port_is_taken(cli):
    """A port that another process has ends it with 2 and a message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = await cli("sim", "--port", str(port))

    assert ended.code == 2
    assert ended.err.startswith(f"cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in ended.err
