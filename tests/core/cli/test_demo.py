"""`first demo`."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
async def demo(cli):
    async with cli.running("demo", "--port", "0", "--grpc-port", "0") as demo:
        yield demo


async def test_demo_answers_from_both_clusters(demo, chat):
    """Each cluster has a model of its own, and both have one in common."""
    address = await demo.address()

    north = await chat(address, "sim-north")
    south = await chat(address, "sim-south")
    common = await chat(address, "sim-common")

    texts = [answer["choices"][0]["message"]["content"] for answer in (north, south, common)]
    assert texts[0].startswith("(simulated on north)")
    assert texts[1].startswith("(simulated on south)")
    assert texts[2].startswith("(simulated on ")


async def test_demo_tells_how_to_go_on(demo):
    """It says that all is simulated, and prints a curl line, SDK lines and addresses to open."""
    address = await demo.address()
    await demo.wait_told("Ctrl-C ends it")

    assert "No model runs" in demo.told
    assert f"curl {address}/v1/chat/completions" in demo.told
    assert f'OpenAI(base_url="{address}/v1"' in demo.told
    assert f"open in a browser: {address}" in demo.told


async def test_demo_ends_well(demo):
    """Ctrl-C ends it with 0, and nothing listens any more."""
    host, _, port = (await demo.address()).removeprefix("http://").rpartition(":")

    code = await demo.end()

    assert code == 0
    assert "Traceback" not in demo.told
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0


async def test_demo_takes_the_next_free_port(cli):
    """Where the usual port is taken it takes a later one, unless a port is asked for."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if taken.connect_ex(("127.0.0.1", 8080)) != 0:
            taken.close()
            taken = socket.create_server(("127.0.0.1", 8080))  # noqa: PLW2901 - the same use
        async with cli.running("demo", "--grpc-port", "0") as demo:
            address = await demo.address()
        taken.close()

    assert int(address.rpartition(":")[2]) > 8080


async def test_federation_goes_on_while_servers_are_killed(cli, chat):
    """Two gateways serve one model; a typed line kills a server, and the others answer."""
    ports = ("--port", "0", "--grpc-port", "0")
    async with cli.running("demo", "--federation", *ports) as demo:
        address = await demo.address()
        await demo.wait_told("Ctrl-C ends it")
        for name in ("north-1", "north-2"):
            await demo.type(f"kill {name}")
            await demo.wait_told(f"{name} is killed")
        answer = await chat(address, "sim-common")
        told = await demo.wait_told("north: answered by")

    assert answer["choices"][0]["message"]["content"].startswith("(simulated on south-")
    assert "through south" in told
