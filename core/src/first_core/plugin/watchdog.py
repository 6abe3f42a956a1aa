"""Bounds many tasks in time with one coarse timer.

`asyncio.timeout` sets and cancels a timer of the event loop for each call, about 10 µs; a watch
costs a look from the shared tick, and moving its deadline is one assignment, cheap enough for
each chunk of a stream.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, Literal, Self, TypeAlias

from first_core.errors import BackendTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from first_core.clock import Clock, TimerHandle

TICK_S: Final = 0.1
"""Seconds between two looks at all watches; a task is cancelled at most this much too late. At
1,000 watches a look takes about 50 µs, 0.05 % of a core."""

Bound: TypeAlias = Literal["connect", "first_chunk", "idle", "total"]
"""What a deadline bounds, as `Timeouts` names it."""

_MESSAGES: Final[dict[str, str]] = {
    "connect": "the endpoint did not accept a connection in time",
    "first_chunk": "the endpoint did not begin its answer in time",
    "idle": "the endpoint fell silent amid its answer",
    "total": "the call took longer than allowed",
}


class Watch:
    """Bounds the task that enters it. Made by `Watchdog.watch`, entered once.

    On leaving, the `asyncio.CancelledError` of a passed deadline becomes `BackendTimeoutError`.
    A cancellation that others asked for passes through, also when both happen at once.
    """

    __slots__ = (
        "_cancelling",
        "_dog",
        "_expired",
        "_task",
        "bound",
        "deadline_s",
        "timeout_s",
        "total_deadline_s",
        "total_timeout_s",
        "work_started",
    )

    def __init__(self, dog: Watchdog, task: asyncio.Task[object], total_s: float | None) -> None:
        self._dog = dog
        self._task = task
        self._cancelling = 0
        self._expired = False
        self.bound: Bound = "total"
        """What `deadline_s` bounds."""
        self.timeout_s = 0.0
        """The span that `deadline_s` came from, for the error."""
        self.deadline_s = inf
        """Monotonic time at which the task is cancelled. The owner may assign it at any time."""
        self.total_timeout_s = total_s or 0.0
        """The span of the whole watch, for the error."""
        self.total_deadline_s = inf if total_s is None else dog.clock.monotonic() + total_s
        """Monotonic time that no other deadline moves."""
        self.work_started = True
        """Told by the error; the owner clears it while that is certain."""

    def expect(self, bound: Bound, timeout_s: float | None) -> None:
        """Begin a phase that may last `timeout_s` seconds from now; `None`: without end."""
        self.bound = bound
        self.work_started = bound != "connect"
        if timeout_s is None:
            self.deadline_s = inf
        else:
            self.timeout_s = timeout_s
            self.deadline_s = self._dog.clock.monotonic() + timeout_s

    def pause(self) -> None:
        """Stop the phase's time, for example while the reader is behind; `expect` goes on."""
        self.deadline_s = inf

    def __enter__(self) -> Self:
        self._cancelling = self._task.cancelling()
        self._dog.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._dog.remove(self)
        # The count tells our cancellation from that of others, as in asyncio.timeout.
        if (
            self._expired
            and self._task.uncancel() <= self._cancelling
            and kind is asyncio.CancelledError
        ):
            raise self._error() from error

    def look(self, now_s: float) -> None:
        """Cancel the task if a deadline has passed."""
        if now_s >= self.total_deadline_s:
            self.bound, self.timeout_s = "total", self.total_timeout_s
        elif now_s < self.deadline_s:
            return
        self._dog.remove(self)
        self._expired = True
        self._task.cancel()

    def _error(self) -> BackendTimeoutError:
        return BackendTimeoutError(
            _MESSAGES[self.bound],
            work_started=self.work_started,
            metadata={"bound": self.bound, "timeout_s": f"{self.timeout_s:g}"},
        )


class Watchdog:
    """Looks at its watches from one timer, which runs only while there are any."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        """The time that deadlines are told in."""
        self._watches: set[Watch] = set()
        self._timer: TimerHandle | None = None

    def watch(self, task: asyncio.Task[object], *, total_s: float | None = None) -> Watch:
        """Return a watch for `task`, the running one; use it as a context.

        Args:
            task: Cancelled when a deadline passes.
            total_s: Longest time from now until the context is left; `None` means none.
        """
        return Watch(self, task, total_s)

    def add(self, watch: Watch) -> None:
        """Begin to look at `watch`."""
        self._watches.add(watch)
        if self._timer is None:
            self._timer = self.clock.call_later(TICK_S, self._tick)

    def remove(self, watch: Watch) -> None:
        """Look at `watch` no more; safe to repeat."""
        self._watches.discard(watch)

    def _tick(self) -> None:
        now_s = self.clock.monotonic()
        for watch in tuple(self._watches):
            watch.look(now_s)
        # Set anew only here, so that calls that come and go leave the timer alone.
        self._timer = self.clock.call_later(TICK_S, self._tick) if self._watches else None
