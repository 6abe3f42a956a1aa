"""A clock that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from typing import TYPE_CHECKING

from first_core.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeTimer:
    """A callback that waits for its time on a `FakeClock`."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    @property
    def is_waiting(self) -> bool:
        """Whether it neither ran nor was cancelled."""
        return self._callback is not None

    def cancel(self) -> None:
        """Drop the callback; safe to repeat, also after it ran."""
        self._callback = None

    def run(self) -> None:
        """Run the callback, once, unless it was cancelled."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class FakeClock(Clock):
    """Time that only `advance` moves. Both of its readings move together.

    Args:
        time_s: Seconds since the Unix epoch to begin with.
        monotonic_s: Monotonic reading to begin with, unlike `time_s` so that mixing them shows.
    """

    def __init__(self, *, time_s: float = 1_700_000_000.0, monotonic_s: float = 1000.0) -> None:
        self._epoch_s = time_s - monotonic_s
        self._now_s = monotonic_s
        self._timers: list[tuple[float, int, FakeTimer]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()

    def time(self) -> float:
        """Return the seconds since the Unix epoch."""
        return self._epoch_s + self._now_s

    def monotonic(self) -> float:
        """Return the monotonic reading in seconds."""
        return self._now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        """Run `callback` when `advance` has moved the time by `delay_s` seconds; never before."""
        timer = FakeTimer(callback)
        heapq.heappush(self._timers, (self._now_s + delay_s, next(self._order), timer))
        self._changed.set()
        return timer

    def advance(self, seconds: float) -> None:
        """Move the time and run the timers that come due, in order, each at its own time.

        Timers that these set run too where they come due. Tasks that they wake run when the test
        next awaits something.
        """
        end_s = self._now_s + seconds
        while self._timers and self._timers[0][0] <= end_s:
            due_s, _, timer = heapq.heappop(self._timers)
            self._now_s = max(self._now_s, due_s)
            timer.run()
        self._now_s = end_s

    @property
    def timer_count(self) -> int:
        """How many timers wait."""
        return sum(timer.is_waiting for _, _, timer in self._timers)

    async def wait_timers(self, count: int = 1) -> None:
        """Wait until at least `count` timers wait: something sleeps that `advance` may wake."""
        while self.timer_count < count:
            self._changed.clear()
            await self._changed.wait()
