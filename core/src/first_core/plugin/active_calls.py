"""The calls in flight at one listener, so that a stop can wait for them and then end them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from first_core.errors import OverloadedError

if TYPE_CHECKING:
    from first_core.clock import Clock

RETRY_AFTER_S = 1.0
"""What a refused caller is told: another process, or this one's successor, is there soon."""


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

    @property
    def count(self) -> int:
        """Calls in flight, those that were told to end left out."""
        return len(self._tasks) - len(self._ended)

    def enter(self) -> asyncio.Task[object]:
        """Count the call of the running task, and return that task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs inside a task")
        self._tasks.add(task)
        return task

    def refuse_new(self) -> None:
        """Let no call in that comes from now on.

        Raises:
            OverloadedError: The process is stopping.
        """
        if self._is_stopping:
            raise _stopping()

    def leave(self, task: asyncio.Task[object]) -> None:
        """Count a call no more."""
        self._tasks.discard(task)
        self._ended.discard(task)
        if self._is_stopping:
            self._changed.set()

    def stopped(self, task: asyncio.Task[object]) -> OverloadedError | None:
        """Tell a task that was cancelled whether a stop did it, which wants an answer to go out.

        Then the cancellation is taken back, once.
        """
        if task not in self._ended:
            return None
        self._ended.discard(task)
        self._tasks.discard(task)
        task.uncancel()
        return _stopping()

    def stop(self) -> None:
        """Be stopping from now on; safe to repeat."""
        self._is_stopping = True

    async def drain(self, clock: Clock, bound_s: float) -> None:
        """Stop, wait until no call is left, or end those that are left after `bound_s` seconds."""
        self.stop()
        timer = clock.call_later(bound_s, self.end_all)
        try:
            while self.count > 0:
                self._changed.clear()
                await self._changed.wait()
        finally:
            timer.cancel()

    def end_all(self) -> None:
        """Cancel each call in flight: its client gets an error; safe to repeat."""
        self.stop()
        for task in self._tasks - self._ended:
            self._ended.add(task)
            task.cancel()
        self._changed.set()


def _stopping() -> OverloadedError:
    return OverloadedError("the gateway is stopping; try again", retry_after_s=RETRY_AFTER_S)
