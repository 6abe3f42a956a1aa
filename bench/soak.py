"""A gateway under random faults, outages and clients that leave, for as long as one likes.

`python -m bench.soak`; `scripts/soak` sets up the environment first. Gateway, simulated servers and
clients run in this one process, over real sockets. Exit status: 0 nothing wrong, 1 a wrong answer,
something leaked or memory that grows, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from first_core.app import Process, load_host, read_settings
from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    DoneWithoutFinish,
    ErrorInside,
    ErrorStatus,
    Fault,
    Garbage,
    LengthMismatch,
    NoDone,
    Refuse,
    Simulator,
    SimulatorSettings,
    SplitWrites,
    StallAfterEvents,
    StallAfterHead,
    StallBeforeHead,
)
from first_core.testing.simulator.generation import Generator, Order

FAULTS: Final[tuple[Fault, ...]] = (
    *(ErrorStatus(status=status) for status in (429, 500, 502, 503, 529)),
    ErrorStatus(status=429, headers={"retry-after": "1"}),
    *(Refuse(), Refuse(reset=False)),
    *(StallBeforeHead(), StallAfterHead(), StallAfterEvents(count=7)),
    *(CutAfterEvents(count=count) for count in (1, 2, 9, 20)),
    CutAfterEvents(count=12, clean=True),
    CutAfterEvents(count=15, reset=True),
    *(CutAfterBytes(count=count) for count in (0, 90, 1500)),
    *(CutInsideCharacter(), CutInsideCharacter(clean=True)),
    *(ErrorInside(), ErrorInside(after_events=6)),
    *(Garbage(), Garbage(kind="html"), Garbage(kind="invalid_json")),
    *(DoneWithoutFinish(), NoDone(), BrokenEvent(after=3), LengthMismatch()),
    SplitWrites(at=(2, 300, 301, 1000)),
)
FAULT_RATIO: Final = 0.2
LEAVE_RATIO: Final = 0.25
"""Share of the clients' calls that they leave before the answer is whole."""

BOUND_S: Final = 1.0
"""Bounds on silence, so that a stalled server is seen in time."""

MAX_RETRY_AFTER_S: Final = 60
"""No `Retry-After` may ask for more: the servers are never away for longer than seconds."""

SETTLE_S: Final = 15.0
"""Longest wait at the end for what is still in flight."""

WARM_RATIO: Final = 0.3
"""Memory is compared from this share of the time on: pools, caches and the heap fill before."""

MAX_GROWTH_MB: Final = 24.0
"""More than this between warm and end means that something is kept. A run of 2 minutes shows 1 to 6
MB, from an allocator that gives nothing back."""

SIM: Final = SimulatorSettings(
    models=("m",),
    seed=7,
    greeting=False,
    natural_token_count=40,
    first_token_delay_s=0.002,
    token_interval_s=0.001,
    fault_ratio=FAULT_RATIO,
    random_faults=FAULTS,
    received_limit=1,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and how much."""

    seconds: float = 600.0
    seed: int = 1
    client_count: int = 24
    server_count: int = 4


@dataclass(slots=True)
class Findings:
    """What happened."""

    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)
    warm_mb: float = 0.0
    end_mb: float = 0.0

    @property
    def is_bad(self) -> bool:
        return bool(self.wrong or self.leaks) or self.end_mb - self.warm_mb > MAX_GROWTH_MB


class Client:
    """One client: sends call after call, and leaves some of them."""

    def __init__(self, url: str, draw: random.Random, findings: Findings) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._draw = draw
        self._findings = findings
        self._generator = Generator(SIM)

    async def run(self, end_s: float) -> None:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=2**20) as session:
            while time.monotonic() < end_s:
                self._findings.verdicts[await self._call(session)] += 1

    async def _call(self, session: aiohttp.ClientSession) -> str:
        draw = self._draw
        prompt = f"prompt {draw.randrange(10**9)}"
        stream = draw.random() < 0.6
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream}
        leaves = draw.random() < LEAVE_RATIO
        stay_s = draw.expovariate(20) if leaves else None
        try:
            async with asyncio.timeout(stay_s):
                async with session.post(self._url, json=body, headers=self._headers()) as answer:
                    data = await answer.read()
        except TimeoutError:
            return "left"
        except aiohttp.ClientError as exc:
            return self._wrong(prompt, f"broken HTTP: {exc!r}")
        fault = _fault(answer, data, self._generator.answer(prompt, Order(limit=1000)).text)
        if fault.startswith("wrong"):
            return self._wrong(prompt, f"{fault} {answer.status} {data!r}")
        return fault or "whole"

    def _headers(self) -> dict[str, str]:
        draw = self._draw
        headers = {"x-first-priority": draw.choice(("batch", "interactive"))}
        if draw.random() < 0.3:
            headers["x-first-wait"] = str(draw.choice((0, 1, 20)))
        return headers

    def _wrong(self, prompt: str, what: str) -> str:
        self._findings.wrong.append(f"{prompt}: {what}")
        return "wrong"


def _fault(answer: aiohttp.ClientResponse, data: bytes, wanted: str) -> str:
    """Return the class of an error, or why the answer is wrong; empty: it is right and whole."""
    if answer.status != 200:
        code = json.loads(data)["error"]["code"]
        wait = int(answer.headers.get("retry-after", 0))
        return f"{answer.status} {code}" if wait <= MAX_RETRY_AFTER_S else f"wrong wait {wait}"
    if answer.content_type == "application/json":
        choice = json.loads(data)["choices"][0]
        right = (choice["message"]["content"], choice["finish_reason"]) == (wanted, "stop")
        return "" if right else "wrong text"
    events = [event for event in data.split(b"\n\n") if event and not event.startswith(b":")]
    text, finishes = _read(events[:-1])
    if events[-1] == b"data: [DONE]":
        return "" if (text, finishes) == (wanted, ["stop"]) else "wrong text"
    error = json.loads(events[-1].removeprefix(b"data: "))["error"]
    right = wanted.startswith(text) and not finishes
    return f"event {error['code']}" if right else "wrong part"


def _read(events: list[bytes]) -> tuple[str, list[str]]:
    text, finishes = "", []
    for event in events:
        if event == BrokenEvent().event.strip():
            continue
        for choice in json.loads(event.removeprefix(b"data: "))["choices"]:
            text += choice["delta"].get("content") or ""
            finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, finishes


async def _break_servers(servers: list[Simulator], draw: random.Random, end_s: float) -> None:
    """Take one server away now and then, never for long and never all."""
    while (left_s := end_s - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, draw.uniform(1, 8)))
        server = draw.choice(servers)
        await server.pause_listening(drop=draw.random() < 0.5)
        try:
            await asyncio.sleep(draw.uniform(0.2, 4))
        finally:
            await server.resume_listening()


def _settings(servers: list[Simulator]) -> dict[str, Any]:
    return {
        "http": {"listen": "127.0.0.1:0", "drain_s": 2},
        "grpc": {"listen": "127.0.0.1:0"},
        "log": {"level": "error"},
        "vllm": {
            "servers": [
                {"url": server.url, "cluster": f"c{number}", "probe_interval_s": 0.5}
                for number, server in enumerate(servers)
            ]
        },
        "endpoints": [{"max_in_flight": 4}],
        "timeouts": {"first_chunk_s": BOUND_S, "idle_s": BOUND_S},
        "admission": {"wait_s": 5.0, "progress_s": 1.0},
    }


async def soak(plan: Plan) -> Findings:
    """Run it and return what happened."""
    draw, findings = random.Random(plan.seed), Findings()
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(plan.server_count):
            server = Simulator(replace(SIM, name=f"sim-{number}"))
            server.faults._random.seed(draw.random())  # noqa: SLF001 - its text keeps its seed
            servers.append(await stack.enter_async_context(server))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        path = Path(folder) / "first.yaml"
        path.write_text(yaml.safe_dump(_settings(servers)), encoding="utf-8")
        host = load_host(path)
        process = Process(read_settings(path, host), host)
        stack.push_async_callback(process.stop)
        url = next(a for a in await process.start() if a.startswith("http://"))
        files = _open_files()
        await _load(plan, url, servers, draw, findings)
        await _settle(process, servers, findings)
        bound = files + plan.server_count * 16
        if _open_files() > bound:
            findings.leaks.append(f"{_open_files()} files open, expected at most {bound}")
    return findings


async def _load(
    plan: Plan, url: str, servers: list[Simulator], draw: random.Random, findings: Findings
) -> None:
    end_s = time.monotonic() + plan.seconds
    clients = [
        Client(url, random.Random(draw.random()), findings) for _ in range(plan.client_count)
    ]
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(end_s))
        group.create_task(_break_servers(servers, draw, end_s))
        group.create_task(_tell(plan, findings))
    findings.end_mb = _memory_mb()


async def _tell(plan: Plan, findings: Findings) -> None:
    """Say every now and then how it goes, and note the memory once it is warm."""
    begin_s = time.monotonic()
    await asyncio.sleep(plan.seconds * WARM_RATIO)
    findings.warm_mb = _memory_mb()
    while (left_s := begin_s + plan.seconds - time.monotonic()) > 0:
        print(f"{math.ceil(left_s)} s left, {findings.verdicts.total()} calls", file=sys.stderr)
        await asyncio.sleep(min(left_s, 30.0))


async def _settle(process: Process, servers: list[Simulator], findings: Findings) -> None:
    """Wait until nothing is in flight, or note what is."""
    if process.router is None:
        raise RuntimeError("the router runs in this process")
    gates = {str(e.id): e.gate for e in process.router.catalog.endpoints()}
    end_s = time.monotonic() + SETTLE_S
    while time.monotonic() < end_s and any(  # noqa: ASYNC110 - gates tell nobody when they empty
        gate.in_flight_count or len(gate.queue) for gate in gates.values()
    ):
        await asyncio.sleep(0.05)
    for name, gate in gates.items():
        if gate.in_flight_count or len(gate.queue):
            findings.leaks.append(
                f"{name}: {gate.in_flight_count} in flight, {len(gate.queue)} queued"
            )
    for server in servers:
        if server.running_count or server.waiting_count:
            findings.leaks.append(f"{server.settings.name}: {server.running_count} calls running")


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _memory_mb() -> float:
    """Return the resident memory of this process, garbage collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def report(plan: Plan, findings: Findings) -> str:
    """Return the findings for a person."""
    lines = [f"{findings.verdicts.total()} calls in {plan.seconds:g} s, seed {plan.seed}"]
    lines += [f"  {count:8} {verdict}" for verdict, count in findings.verdicts.most_common()]
    lines.append(f"wrong answers: {len(findings.wrong)}")
    lines += [f"  {wrong[:2000]}" for wrong in findings.wrong[:10]]
    lines.append(f"leaked: {len(findings.leaks)}")
    lines += [f"  {leak}" for leak in findings.leaks]
    lines.append(f"memory: {findings.warm_mb:.1f} MB warm, {findings.end_mb:.1f} MB at the end")
    lines.append("BAD" if findings.is_bad else "OK")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="default 10")
    parser.add_argument("--seed", type=int, default=1, help="of what is drawn; default 1")
    parser.add_argument("--clients", type=int, default=24, help="default 24")
    parser.add_argument("--servers", type=int, default=4, help="default 4")
    args = parser.parse_args()
    plan = Plan(args.minutes * 60, args.seed, args.clients, args.servers)
    try:
        findings = asyncio.run(soak(plan))
    except KeyboardInterrupt:
        return 130
    print(report(plan, findings))
    return 1 if findings.is_bad else 0


if __name__ == "__main__":
    sys.exit(main())
