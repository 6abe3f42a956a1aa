"""The calls in flight, so that a stop can wait for them and then end them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from first_core.errors import OverloadedError

if TYPE_CHECKING:
    from first_core.clock import Clock


class ActiveCalls:
    """Knows the `asyncio.Task` of each call in flight."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._ended: set[asyncio.Task[object]] = set()
        self._changed = asyncio.Event()
        self._is_stopping = False

    @property
    def is_stopping(self) -> bool:
        """Whether no new call should come."""
        return self._is_stopping

    def enter(self) -> asyncio.Task[object]:
        """Count the call of the running task, and return that task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs inside a task")
        self._tasks.add(task)
        return task

    def leave(self, task: asyncio.Task[object]) -> None:
        """Count a call no more."""
        self._tasks.discard(task)
        self._ended.discard(task)
        if self._is_stopping:
            self._changed.set()

    def stopped(self, task: asyncio.Task[object]) -> OverloadedError | None:
        """Tell a task that was cancelled whether it was `drain`, which wants an answer to go out.

        Then the cancellation is taken back, once.
        """
        if task not in self._ended:
            return None
        self._ended.discard(task)
        task.uncancel()
        return OverloadedError("the gateway is stopping; try again", retry_after_s=1)

    async def drain(self, clock: Clock, bound_s: float) -> None:
        """Wait until no call is left, or cancel those that are left after `bound_s` seconds."""
        self._is_stopping = True
        timer = clock.call_later(bound_s, self._end_all)
        try:
            while self._tasks - self._ended:
                self._changed.clear()
                await self._changed.wait()
        finally:
            timer.cancel()

    def _end_all(self) -> None:
        for task in self._tasks:
            self._ended.add(task)
            task.cancel()
        self._changed.set()
