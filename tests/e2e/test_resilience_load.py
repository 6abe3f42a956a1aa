"""Under load, with many servers failing at random: no wrong answer, ever."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

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
)
from first_core.testing.simulator.generation import Generator, Order

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DONE = b"data: [DONE]"
FAULT_RATIO = 0.4
WORKERS = 32
CALLS = {"one_process": 10_000, "apart": 2_000}

FAULTS: tuple[Fault, ...] = (
    ErrorStatus(status=429),
    ErrorStatus(status=500),
    ErrorStatus(status=503),
    Refuse(),
    CutAfterEvents(count=1),
    CutAfterEvents(count=5),
    CutAfterEvents(count=9, reset=True),
    CutAfterEvents(count=12, clean=True),
    CutAfterBytes(count=0),
    CutAfterBytes(count=150),
    CutAfterBytes(count=700, clean=True),
    CutInsideCharacter(),
    CutInsideCharacter(clean=True),
    ErrorInside(),
    ErrorInside(after_events=4),
    Garbage(),
    Garbage(kind="html"),
    Garbage(kind="invalid_json"),
    DoneWithoutFinish(),
    NoDone(),
    BrokenEvent(after=3),
    LengthMismatch(),
    SplitWrites(at=(3, 200, 201, 900)),
)
SIM = SimulatorSettings(
    models=("m",),
    seed=7,
    greeting=False,
    natural_token_count=20,
    received_limit=1,
    fault_ratio=FAULT_RATIO,
    random_faults=FAULTS,
)


class Seeded(Simulator):
    """A simulator whose faults come in an order of its own, while its text is that of all."""

    def __init__(self, number: int) -> None:
        super().__init__(replace(SIM, name=f"sim-{number}"))
        self.faults._random.seed(number)


@pytest.fixture
async def replicas() -> AsyncIterator[list[Seeded]]:
    """Three servers of the model, each failing at 40 of 100 calls."""
    servers = [Seeded(number) for number in range(3)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()


class Judge:
    """Knows the one right answer to each prompt, and sorts what came."""

    def __init__(self) -> None:
        self._generator = Generator(SIM)
        self.verdicts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def expected(self, prompt: str) -> str:
        return self._generator.answer(prompt, Order(limit=1000)).text

    def judge(self, prompt: str, answer: Any) -> None:
        verdict = self._verdict(self.expected(prompt), answer)
        self.verdicts[verdict] += 1
        if verdict == "wrong":
            self.wrong.append(f"{prompt}: {answer.status} {answer.body!r}")

    def _verdict(self, wanted: str, answer: Any) -> str:
        if answer.status != 200:
            return "refused" if answer.json()["error"]["message"] else "wrong"
        if answer.media_type == "application/json":
            return "whole" if text_of_plain(answer) == wanted else "wrong"
        *events, last = answer.events
        if last == DONE:
            text, finishes = read(events)
            return "whole" if (text, finishes) == (wanted, ["stop"]) else "wrong"
        is_error = bool(json.loads(last.removeprefix(b"data: "))["error"]["message"])
        text, finishes = read(events)
        is_part = wanted.startswith(text) and not finishes and DONE not in events
        return "broken off" if is_error and is_part else "wrong"


def text_of_plain(answer: Any) -> str:
    choice = answer.json()["choices"][0]
    return str(choice["message"]["content"]) if choice["finish_reason"] == "stop" else ""


def read(events: list[bytes]) -> tuple[str, list[str]]:
    text, finishes = "", []
    for event in events:
        if event == BrokenEvent().event.strip():
            continue
        for choice in json.loads(event.removeprefix(b"data: "))["choices"]:
            text += choice["delta"].get("content") or ""
            finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, finishes


async def work(gateway: Any, judge: Judge, numbers: Any) -> None:
    """Send calls one after the other on one connection, plain and streamed in turn."""
    async with gateway.dial() as client:
        for number in numbers:
            prompt = f"prompt {number}"
            message = {"role": "user", "content": prompt}
            body = {"model": "m", "messages": [message], "stream": number % 2 == 0}
            client.send("POST", "/v1/chat/completions", json.dumps(body).encode())
            judge.judge(prompt, await client.answer())


async def test_servers_that_fail_at_random_give_no_wrong_answer(
    open_gateway, replicas, carrier, until
):
    """Each of thousands of calls gets its whole answer, or an error that is one."""
    judge, numbers = Judge(), iter(range(CALLS[carrier]))
    # Retries are as many as it takes, so that each way of rescue is gone thousands of times.
    resilience = {"max_attempts": 5, "retry_ratio": 1.0, "same_endpoint_wait_s": 0.005}
    async with open_gateway(*replicas, resilience=resilience) as gateway:
        await asyncio.gather(*(work(gateway, judge, numbers) for _ in range(WORKERS)))
        gates = [gateway.gate(cluster) for cluster in "abc"]
        await until(lambda: not any(gate.in_flight_count for gate in gates))

    assert judge.wrong == []
    assert judge.verdicts.total() == CALLS[carrier]
    assert judge.verdicts["whole"] > 0.9 * CALLS[carrier]
    assert [len(gate.queue) for gate in gates] == [0, 0, 0]
    assert [server.running_count for server in replicas] == [0, 0, 0]
