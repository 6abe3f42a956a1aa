"""The only reader of time, so that tests can hold and move it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class TimerHandle(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> None:
        """Drop the callback; safe to repeat, also after it ran."""


class Clock(ABC):
    """Reads time and waits for it. All methods belong to the event loop's thread."""

    @abstractmethod
    def time(self) -> float:
        """Return the seconds since the Unix epoch."""

    @abstractmethod
    def monotonic(self) -> float:
        """Return seconds that never go back; only differences mean anything."""

    @abstractmethod
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Run `callback` on the running event loop after `delay_s` seconds."""

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not woken.done():
                woken.set_result(None)

        handle = self.call_later(delay_s, wake)
        try:
            await woken
        finally:
            handle.cancel()


class SystemClock(Clock):
    """The time of the machine."""

    def time(self) -> float:
        """Return the seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return the machine's monotonic time in seconds."""
        return time.monotonic()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> TimerHandle:
        """Run `callback` on the running event loop after `delay_s` seconds."""
        return asyncio.get_running_loop().call_later(delay_s, callback)
