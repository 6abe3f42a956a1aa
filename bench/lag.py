"""How long the event loop keeps others waiting while a large catalog is refreshed."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from bench.inside import build
from bench.measure import Sample
from bench.stats import percentile
from first_core.domain.calls import IncomingCall
from first_core.errors import FirstError
from first_core.settings import RoutingSettings
from first_core.types import Operation, Pin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from first_core.app import Router
    from first_core.plugin import EndpointReport

TICK_S: Final = 0.002
"""From look to look. uvloop's timers are good to 1 ms, so a lag of that much is none."""

CALL_RATE: Final = 200.0
REFRESH_S: Final = 1.0


def felt_s(lateness_s: Sequence[float], tick_s: float) -> list[float]:
    """What calls that come at any time feel of looks that were late.

    A loop that stands still for long makes one late look, though many calls would have waited: the
    looks that could not take place are put in, each late by one tick less than the one before.
    """
    felt = []
    for late_s in lateness_s:
        felt.append(late_s)
        missed = int(late_s / tick_s)
        felt += [late_s - tick_s * (index + 1) for index in range(missed)]
    return felt


class _Looks:
    """Looks at the time again and again, and notes how late each look was."""

    def __init__(self) -> None:
        self.lateness_s: list[float] = []
        self._due_s = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due_s = time.perf_counter() + TICK_S
        self._handle = asyncio.get_running_loop().call_later(TICK_S, self._look)

    def _look(self) -> None:
        self.lateness_s.append(max(0.0, time.perf_counter() - self._due_s))
        self.start()

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class _Calls:
    """Calls through the whole relay, evenly, over all models."""

    def __init__(self, router: Router, models: Sequence[str]) -> None:
        self._router = router
        self._bodies = [
            b'{"model":"%s","messages":[{"role":"user","content":"hi"}]}' % model.encode()
            for model in models
        ]
        self._running: set[asyncio.Task[None]] = set()
        self.count = 0
        self.errors: Counter[str] = Counter()

    async def run(self) -> None:
        due_s = time.perf_counter()
        while True:
            task = asyncio.get_running_loop().create_task(self._one())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            due_s += 1 / CALL_RATE
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))

    async def _one(self) -> None:
        self.count += 1
        incoming = IncomingCall(
            operation=Operation.CHAT,
            body=self._bodies[self.count % len(self._bodies)],
            content_type="application/json",
            model="",
            pin=Pin(),
            headers={},
            request_id="bench",
            trace=None,
            first_chunk_timeout_s=None,
            time_remaining_s=None,
        )
        try:
            await self._router.relay.call(incoming)
        except FirstError as exc:
            self.errors[type(exc).__name__] += 1


async def lag_samples(
    endpoints: Sequence[EndpointReport],
    others: Sequence[EndpointReport],
    models: Sequence[str],
    *,
    quick: bool,
) -> dict[str, Sample]:
    """Lag without and with a refresh each second, which alternates between the two catalogs."""
    window_s = 4.0 if quick else 10.0
    router, publish = await build(endpoints, RoutingSettings())
    turn = 0

    def refresh() -> None:
        nonlocal turn
        turn += 1
        publish(others if turn % 2 else endpoints)

    # A gateway collects its garbage too; the bench as a whole does not.
    gc.collect()
    gc.enable()
    try:
        return {
            "calm": await _lag(router, models, None, window_s),
            "refreshed": await _lag(router, models, refresh, window_s),
        }
    finally:
        gc.disable()
        await router.stop()


async def _lag(
    router: Router, models: Sequence[str], refresh: Callable[[], None] | None, window_s: float
) -> Sample:
    calls, looks = _Calls(router, models), _Looks()
    going = asyncio.get_running_loop().create_task(calls.run())
    looks.start()
    begin_s = time.perf_counter()
    try:
        while time.perf_counter() - begin_s < window_s:
            if refresh is not None:
                refresh()
            await asyncio.sleep(REFRESH_S)
    finally:
        took_s = time.perf_counter() - begin_s
        looks.stop()
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)
    felt = felt_s(looks.lateness_s, TICK_S)
    numbers = {
        "calls_per_s": calls.count / took_s,
        "lag_p99_ms": 1e3 * percentile(felt, 0.99),
        "lag_max_ms": 1e3 * max(felt),
    }
    return Sample(numbers, calls.errors)
