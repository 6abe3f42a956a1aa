"""Managed servers behind the real router and front."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from first_core.app import Process, load_host, read_settings
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointState

BOUND_S = 30.0
FIRST = str(Path(sys.executable).with_name("first"))
SIM = [FIRST, "sim", "--port", "{port}", "--model", "{model}"]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def settings_of(path, *managed, servers=()):
    """Write a settings file with managed servers."""
    usual = {"model": "m", "command": SIM, "probe_interval_s": 0.05, "stop_grace_s": 2}
    tree = {
        "http": {"listen": "127.0.0.1:0", "drain_s": 1},
        "grpc": {"listen": None},
        "plugins": {"allow": ["gateway_http", "vllm"]},
        "vllm": {"managed": [{**usual, **each} for each in managed], "servers": list(servers)},
    }
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


class Gateway:
    def __init__(self, process, url):
        self.process = process
        self.parts = urlsplit(url)

    async def chat(self, **headers):
        """Ask once; returns the status, the head and the body."""
        body = json.dumps(CHAT).encode()
        fields = {"host": "gateway", "connection": "close", "content-length": len(body), **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        head = "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", ""]).encode()
        reader, writer = await asyncio.open_connection(self.parts.hostname, self.parts.port)
        async with asyncio.timeout(BOUND_S):
            writer.write(head + body)
            data = await reader.read()
        writer.close()
        head, _, body = data.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head.decode().lower(), body

    async def wait(self, state):
        """Wait until an endpoint of the model is in a state; returns its report."""
        catalog = self.process.router.catalog
        async with asyncio.timeout(BOUND_S):
            while True:
                changed = catalog.next_change()
                for endpoint in catalog.endpoints_of("m"):
                    if endpoint.report.state is state:
                        return endpoint.report
                await changed.wait()


@asynccontextmanager
async def gateway(path):
    host = load_host(path)
    process = Process(read_settings(path, host), host)
    try:
        yield Gateway(process, (await process.start())[0])
    finally:
        await process.stop()


async def test_call_that_waits_starts_the_server_and_is_answered(tmp_path):
    """The waiting room holds the call while the model comes up."""
    async with gateway(settings_of(tmp_path / "first.yaml", {})) as opened:
        status, _, body = await opened.chat(x_first_wait=20)

    assert status == 200
    assert b"simulated" in body


async def test_call_that_cannot_wait_starts_the_server_too(tmp_path):
    """It is told to come back, and by then the model is coming up."""
    async with gateway(settings_of(tmp_path / "first.yaml", {})) as opened:
        status, head, _ = await opened.chat()
        await opened.wait(EndpointState.READY)

        assert (status, "retry-after:" in head) == (503, True)
        assert (await opened.chat())[0] == 200


async def test_call_after_a_failed_start_is_told_why(tmp_path):
    """The last line of the server's log stands in the error, without folders."""
    code = "print('CUDA out of memory in /opt/site/model.py'); raise SystemExit(1)"
    failing = {"command": [sys.executable, "-c", code], "port": 18771, "start": "always",
               "restart_min_s": 60}  # fmt: skip
    async with gateway(settings_of(tmp_path / "first.yaml", failing)) as opened:
        await opened.wait(EndpointState.DOWN)
        status, _, body = await opened.chat()

    assert status == 503
    assert (
        "it exited with 1: CUDA out of memory in …/model.py" in json.loads(body)["error"]["message"]
    )


async def test_crash_fails_over_to_another_server(tmp_path):
    """A call that meets the crash of its server is answered by another one of the model."""
    pid_file = tmp_path / "pid"
    code = (
        "import asyncio, os, sys\n"
        "from first_core.testing.simulator import SimulatorSettings, run_simulator\n"
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "settings = SimulatorSettings(models=('m',), first_token_delay_s=1000)\n"
        "asyncio.run(run_simulator(settings, port=int(sys.argv[1])))"
    )
    slow = {"command": [sys.executable, "-c", code, "{port}"], "start": "always", "cluster": "a"}
    async with Simulator(SimulatorSettings(models=("m",))) as other:
        path = settings_of(
            tmp_path / "first.yaml", slow, servers=[{"url": other.url, "cluster": "b"}]
        )
        async with gateway(path) as opened:
            endpoint = next(
                e for e in opened.process.router.catalog.endpoints_of("m") if e.id.cluster == "a"
            )
            while endpoint.report.state is not EndpointState.READY:
                await opened.process.router.catalog.next_change().wait()
            asking = asyncio.create_task(opened.chat())
            while not endpoint.gate.in_flight_count and not asking.done():  # noqa: ASYNC110
                await asyncio.sleep(0)  # one tick: the gate tells nobody

            os.kill(int(pid_file.read_text()), signal.SIGKILL)
            status, head, _ = await asking

    assert status == 200
    assert "x-first-endpoint: b/" in head


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_gateway_that_is_killed_leaves_no_server(tmp_path):
    """Nothing of a server is left, though nobody had the time to stop it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = (
        "import os, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(fifo)!r}, 'w').write(str(os.getpid()) + '\\n')\n"
        f"keep = open({str(fifo)!r}, 'w')\n"
        "while True: signal.pause()"
    )
    stubborn = {"command": [sys.executable, "-c", code], "port": 18772, "start": "always",
                "stop_grace_s": 0.1}  # fmt: skip
    path = settings_of(tmp_path / "first.yaml", stubborn)
    process = await asyncio.create_subprocess_exec(
        FIRST, "serve", "--config", str(path), stderr=asyncio.subprocess.DEVNULL
    )
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    pipe = os.fdopen(reader, "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
    async with asyncio.timeout(BOUND_S):
        assert int(await stream.readline()) > 0  # it is up

        process.kill()
        await process.wait()

        assert await stream.read() == b""  # the end: who held the pipe is gone
    transport.close()
