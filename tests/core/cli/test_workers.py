"""Several processes on one port."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from first_core.testing.simulator import Simulator, SimulatorSettings, StallAfterEvents

STREAM = b'{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}'
BOUND_S = 30.0


class Crew:
    """A gateway of two workers."""

    def __init__(self, running):
        self.running = running
        self.url = ""

    async def start(self):
        self.url = await self.running.address()
        await self.running.wait_told("with 2 workers")

    def pid(self, worker):
        return int(re.findall(rf"worker {worker} runs as process (\d+)", self.running.told)[-1])

    def open(self):
        host, _, port = self.url.removeprefix("http://").partition(":")
        return asyncio.open_connection(host, int(port))

    async def request(self, head, body=b""):
        """Send one request on a connection of its own; returns the reader."""
        reader, writer = await self.open()
        text = f"{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{text}content-length: {len(body)}\r\n\r\n".encode() + body)
        return reader, writer

    async def whole(self, head, body=b""):
        reader, writer = await self.request(head, body)
        async with asyncio.timeout(BOUND_S):
            answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def chat(self):
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
        answer = await self.whole("POST /v1/chat/completions", body)
        return int(answer.split()[1])

    async def metric(self, name):
        text = (await self.whole("GET /metrics")).decode()
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


@pytest.fixture
async def crew(cli, settings):
    async with cli.running("serve", "--config", settings, "--workers", "2") as running:
        one = Crew(running)
        await one.start()
        yield one


def worker_connections(pid):
    """How many sockets a worker has open."""
    return sum(fd.is_socket() for fd in Path(f"/proc/{pid}/fd").iterdir())


async def test_both_workers_serve(crew):
    """The kernel spreads connections, and each worker answers."""
    before = [worker_connections(crew.pid(n)) for n in (0, 1)]
    opened = [await crew.open() for _ in range(32)]
    statuses = [await crew.chat() for _ in range(16)]
    after = [worker_connections(crew.pid(n)) for n in (0, 1)]
    for _, writer in opened:
        writer.close()

    assert statuses == [200] * 16
    assert all(now > then for now, then in zip(after, before, strict=True))


async def test_each_worker_tells_the_sums(crew):
    """Whichever worker is scraped, `/metrics` counts the calls of all."""
    for _ in range(12):
        await crew.chat()
    sums = {await crew.metric("first_calls_total") for _ in range(8)}
    text = await crew.whole("GET /metrics")

    assert sums == {12.0}
    assert await crew.metric("first_call_duration_seconds_count") == 12.0
    assert b'first_calls_in_flight{operation="chat"} 0.0' in text
    assert b"pid=" not in text


async def test_a_worker_that_dies_is_replaced(crew):
    """A killed worker gets a successor, calls go on, and no count is lost."""
    for _ in range(8):
        await crew.chat()
    os.kill(crew.pid(1), signal.SIGKILL)
    await crew.running.wait_told("worker 1 ended with -9")
    await crew.running.wait_told("worker 1 runs as process")
    statuses = {await crew.chat() for _ in range(8)}

    assert statuses == {200}
    assert await crew.metric("first_calls_total") == 16.0


async def test_workers_take_new_settings(crew, settings):
    """SIGHUP reaches each of them."""
    with open(settings, "a", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - a test
        file.write("admission: {wait_s: 1}\n")
    crew.running.send(signal.SIGHUP)
    await crew.running.wait_told("settings_reloaded")
    await crew.running.wait_told("settings_reloaded")


async def test_sigterm_ends_all(crew):
    """The supervisor ends with 0, and no worker outlives it."""
    pids = [crew.pid(n) for n in (0, 1)]
    code = await crew.running.end(signal.SIGTERM)

    assert code == 0, crew.running.told
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)  # noqa: ASYNC240, PTH110
    assert "Traceback" not in crew.running.told


async def test_workers_end_with_a_killed_supervisor(crew):
    """A supervisor that is killed takes its workers along."""
    watches = [os.pidfd_open(crew.pid(n)) for n in (0, 1)]
    await crew.running.end(signal.SIGKILL)
    for watch in watches:
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(watch, gone.set)
        async with asyncio.timeout(BOUND_S):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)


async def test_a_bound_holds_for_all_workers(cli):
    """Calls in flight at an endpoint never exceed its bound, whichever worker they came through."""
    settings = SimulatorSettings(models=("m",), natural_token_count=40, token_interval_s=0.005)
    async with Simulator(settings) as sim:
        text = (
            "http: {listen: 127.0.0.1:0}\ngrpc: {listen: null}\n"
            f"vllm: {{servers: [{{url: {sim.url}, cluster: north}}]}}\n"
            "endpoints: [{max_in_flight: 3}]\n"
        )
        most = 0
        changed = sim.engine._on_change

        def watch():
            nonlocal most
            most = max(most, sim.running_count + sim.waiting_count)
            changed()

        sim.engine._on_change = watch
        path = cli.write("bound.yaml", text)
        async with cli.running("serve", "--config", path, "--workers", "2") as running:
            crew = Crew(running)
            await crew.start()
            answers = await asyncio.gather(
                *(crew.whole("POST /v1/chat/completions", STREAM) for _ in range(24))
            )

    assert all(b"[DONE]" in answer for answer in answers)
    assert most == 3


async def test_streams_drain_in_each_worker(crew, sim):
    """A stream in flight is waited for, and told; a second signal ends it."""
    sim.faults.add(StallAfterEvents(count=2))
    reader, writer = await crew.request("POST /v1/chat/completions", STREAM)
    await reader.readuntil(b"data: ")
    crew.running.send(signal.SIGTERM)
    await crew.running.wait_told("draining: 1 call in flight")
    code = await crew.running.end(signal.SIGTERM)
    rest = await reader.read()
    writer.close()

    assert code == 0
    assert b'data: {"error":' in rest


async def test_a_taken_port_ends_the_start(cli, settings, crew):
    """Two gateways never share a port by mistake."""
    address = crew.url.removeprefix("http://")
    ended = await cli("serve", "--config", settings, "--http", address, "--workers", "2")

    assert ended.code == 2
    assert f"http.listen: cannot listen at {address}" in ended.err


async def test_wrong_settings_end_the_start(cli):
    """Faults are told once, before any worker starts."""
    ended = await cli("serve", "--workers", "2", "--config", cli.write("x.yaml", "log: 1\n"))

    assert ended.code == 2
    assert ended.err.count("log: ") == 1


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("vllm: {managed: [{model: m}]}\n", "vllm"),
        ("federation: {name: a, listen: 127.0.0.1:0}\n", "federation"),
    ],
)
async def test_what_one_process_must_do_is_refused(cli, text, key):
    """Workers that would do it several times do not start."""
    ended = await cli("serve", "--workers", "2", "--config", cli.write("x.yaml", text))

    assert ended.code == 2
    assert f"--workers: {key}: " in ended.err


async def test_router_and_gateway_have_workers_too(cli, settings, chat):
    """Both halves can be several processes."""
    async with cli.running("router", "--config", settings, "--workers", "2") as router:
        target = await router.address("grpc")
        front = cli.write("front.yaml", "http: {listen: 127.0.0.1:0}\n")
        args = ("gateway", "--router", target, "--config", front, "--workers", "2")
        async with cli.running(*args) as gateway:
            answer = await chat(await gateway.address())

    assert answer["model"] == "m"
