"""`first serve`, `first router` and `first gateway`."""

from __future__ import annotations

import signal
import socket

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_ends_well_on_a_signal(cli, settings, number):
    """SIGINT and SIGTERM end it with 0 and without a traceback."""
    async with cli.running("serve", "--config", settings) as gateway:
        await gateway.address()
        code = await gateway.end(number)

    assert code == 0, gateway.told
    assert "Traceback" not in gateway.told


async def test_serve_answers(cli, settings, chat):
    """A chat call at the address that it prints reaches the server of the settings."""
    async with cli.running("serve", "--config", settings) as gateway:
        answer = await chat(await gateway.address())

    assert answer["model"] == "m"


async def test_serve_tells_what_to_try(cli, settings):
    """It lists the models with their places, and a curl line for a ready one."""
    async with cli.running("serve", "--config", settings) as gateway:
        address = await gateway.address()
        line = await gateway.wait_told("curl")

    assert line.startswith(f"curl {address}/v1/chat/completions ")
    assert '"model": "m"' in line
    assert "  m (north ready)\n" in gateway.told


async def test_serve_says_so_when_nothing_answers(cli):
    """Without any upstream it runs and says that there is no model yet."""
    cli.env["LOCAL_VLLM_URL"] = "http://127.0.0.1:1"
    async with cli.running("serve", "--http", "127.0.0.1:0", "--grpc", "off") as gateway:
        await gateway.wait_told("no model yet")

    assert "no settings file: looking at vllm (http://127.0.0.1:1)" in gateway.told


async def test_serve_reads_the_file_of_its_folder(cli, sim, settings, chat):
    """`first.yaml` of the working directory counts when no other file is named."""
    (cli.folder / "gateway.yaml").rename(cli.folder / "first.yaml")
    async with cli.running("serve") as gateway:
        answer = await chat(await gateway.address())

    assert answer["model"] == "m"
    assert "settings: first.yaml" in gateway.told


async def test_serve_reads_the_file_of_the_environment(cli, settings):
    """`FIRST_CONFIG` names the file, before `first.yaml`."""
    cli.write("first.yaml", "nonsense: 1\n")
    cli.env["FIRST_CONFIG"] = settings
    async with cli.running("serve") as gateway:
        await gateway.address()

    assert f"settings: {settings}" in gateway.told


async def test_serve_without_grpc(cli, settings):
    """`--grpc off` leaves the gRPC server out."""
    async with cli.running("serve", "--config", settings, "--grpc", "off") as gateway:
        await gateway.wait_told("models:")

    assert "grpc://" not in gateway.told


async def test_serve_logs_json_where_no_person_reads(cli, settings):
    """Standard error that is no terminal gets JSON lines."""
    async with cli.running("serve", "--config", settings) as gateway:
        line = await gateway.wait_told("vLLM server is up")

    assert line.startswith("{")


async def test_serve_tells_each_fault_of_the_settings(cli):
    """Wrong settings end it with 2 and a line with the place of each fault, no traceback."""
    path = cli.write("bad.yaml", "log: {level: loud}\nhttp:\n  lissen: x\n")

    ended = await cli("serve", "--config", path)

    assert ended.code == 2
    assert f"{path}:1: log.level: " in ended.err
    assert f"{path}:3: http.lissen: unknown key; allowed here: " in ended.err
    assert "Traceback" not in ended.err


async def test_serve_tells_that_an_address_is_taken(cli, settings):
    """A port that another process has ends it with 2 and a message."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = await cli("serve", "--config", settings, "--http", address)

    assert ended.code == 2
    assert address in ended.err
    assert "Traceback" not in ended.err


async def test_serve_refuses_a_public_address(cli, settings):
    """Without an authenticator it listens on loopback only."""
    ended = await cli("serve", "--config", settings, "--http", "0.0.0.0:0")

    assert ended.code == 2
    assert "loopback" in ended.err


async def test_router_and_gateway_run_apart(cli, settings, chat):
    """A front in a process of its own reaches the models of a router in another."""
    async with cli.running("router", "--config", settings) as router:
        target = await router.address("grpc")
        front = cli.write("front.yaml", "http: {listen: 127.0.0.1:0}\n")
        async with cli.running("gateway", "--router", target, "--config", front) as gateway:
            answer = await chat(await gateway.address())
            code = await gateway.end()

    assert answer["model"] == "m"
    assert code == 0
    assert "http://" not in router.told.partition("models:")[0].partition("listening")[2]


async def test_router_needs_an_address(cli):
    """A router alone that listens nowhere is refused."""
    ended = await cli("router", "--config", cli.write("x.yaml", "vllm: {}\n"), "--grpc", "off")

    assert ended.code == 2
    assert "grpc.listen" in ended.err


async def test_gateway_starts_before_its_router(cli, chat):
    """Without a router it runs, and a call fails with an error in OpenAI's shape."""
    front = cli.write("front.yaml", "http: {listen: 127.0.0.1:0}\n")
    async with cli.running("gateway", "--router", "127.0.0.1:1", "--config", front) as gateway:
        answer = await chat(await gateway.address())

    assert answer["error"]["code"] == "backend_unavailable"


async def test_gateway_needs_a_router(cli):
    """Without `--router` it is wrong usage."""
    ended = await cli("gateway")

    assert ended.code == 2
    assert "--router" in ended.err
