"""One outage of a first endpoint, with calls all the while."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from bench.caller import Caller, Reply
from bench.measure import Sample

if TYPE_CHECKING:
    from bench.load import Work
    from bench.pairs import Pair

BEAT_S: Final = 0.02
"""From call to call: the error of the time until the endpoint is back."""

LONGEST_S: Final = 30.0
"""Twice the breaker's longest pause; an endpoint that is not back then does not come back."""


class _Beat:
    """Begins a call each `BEAT_S`, whatever becomes of the others."""

    def __init__(self, pair: Pair, port: int, work: Work) -> None:
        self._pair = pair
        self._port = port
        self._work = work
        self._free: list[Caller] = []
        self._made: list[Caller] = []
        self._running: set[asyncio.Task[None]] = set()
        self.ended_s = math.inf
        """When the outage ended."""
        self.back_s = math.nan
        """Seconds from then to the first answer of the endpoint."""
        self.is_back = asyncio.Event()
        self.call_count = 0
        self.errors: Counter[str] = Counter()

    def begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self._one())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _one(self) -> None:
        if self._free:
            caller = self._free.pop()
        else:
            caller = Caller(self._port, self._work)
            self._made.append(caller)
        try:
            self._judge(await caller.call())
        except OSError as exc:
            self.errors[f"connect: {type(exc).__name__}"] += 1
        self._free.append(caller)

    def _judge(self, reply: Reply) -> None:
        self.call_count += 1
        now_s = time.perf_counter()
        if reply.fault:
            self.errors[reply.fault] += 1
        elif self._pair.is_primary(reply) and now_s >= self.ended_s and not self.is_back.is_set():
            self.back_s = now_s - self.ended_s
            self.is_back.set()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for caller in self._made:
            caller.close()


async def outage(pair: Pair, port: int, work: Work, length_s: float) -> Sample:
    """Let the first endpoint fail for `length_s`, then wait until it answers again."""
    beat = _Beat(pair, port, work)

    async def go_on() -> None:
        while True:
            beat.begin()
            await asyncio.sleep(BEAT_S)

    going = asyncio.get_running_loop().create_task(go_on())
    try:
        await asyncio.sleep(10 * BEAT_S)
        await pair.fail()
        await asyncio.sleep(length_s)
        await pair.recover()
        beat.ended_s = time.perf_counter()
        try:
            async with asyncio.timeout(LONGEST_S):
                await beat.is_back.wait()
        except TimeoutError:
            beat.errors["the endpoint did not come back"] += 1
    finally:
        going.cancel()
        await beat.close()
    numbers = {"outage_s": length_s, "failed": float(beat.errors.total()), "back_s": beat.back_s}
    return Sample(numbers, beat.errors)
