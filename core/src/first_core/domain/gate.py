"""The gate of one endpoint: how many calls are in, and who waits before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from first_core.domain.bounds import AdaptiveBound
from first_core.domain.call_count import LocalCount
from first_core.domain.fair_queue import FairQueue

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.domain.bounds import Bound
    from first_core.domain.call_count import CallCount

WEIGHT: Final = 0.1
"""Weight of the newest interval in the mean time between two calls that leave."""


class Waiter(Protocol):
    """One call that waits, maybe before several gates."""

    def may_enter(self, gate: Gate) -> bool:
        """Tell whether the endpoint behind `gate` takes calls now; asked of who is next."""

    def admit(self, gate: Gate) -> bool:
        """Take a place inside `gate`; `False`: it has found one elsewhere, or has left."""


class Gate:
    """Lets calls in up to a bound and queues the others. All operations take O(log n).

    Args:
        clock: The time.
        bound: The most calls inside.
        max_queue: The most calls before it.
        count: Counts who is inside; `None`: the calls of this process alone.

    Whether the endpoint behind it takes calls at all is no business of the gate: who waits knows.
    """

    __slots__ = (
        "_clock",
        "_full_since_s",
        "_interval_s",
        "bound",
        "count",
        "queue",
    )

    def __init__(
        self, clock: Clock, bound: Bound, max_queue: int, count: CallCount | None = None
    ) -> None:
        self._clock = clock
        self._interval_s: float | None = None
        self._full_since_s: float | None = None
        self.bound = bound
        self.count: CallCount = LocalCount() if count is None else count
        self.queue: FairQueue[Waiter] = FairQueue(max_queue)

    @property
    def has_room(self) -> bool:
        """Whether a call may go in at once. Whoever waits goes first."""
        return self.count.total < self.bound.limit and not self.queue.waiting_count

    @property
    def in_flight_count(self) -> int:
        """Calls inside, those of other workers included."""
        return self.count.total

    def enter(self) -> bool:
        """Let one call in; `False`: another worker has just taken the last place."""
        return self.count.try_add(self.bound.limit)

    def leave(self) -> None:
        """Let one call out, and the next one in."""
        self.count.remove()
        if len(self.queue):
            self._learn_interval()
        else:
            self._full_since_s = None
        self.admit_waiting()

    def _learn_interval(self) -> None:
        """Take the time since the last call left, if the gate was full all that time.

        An idle time before the first one that waited says nothing about the next ones' wait.
        """
        now_s = self._clock.monotonic()
        if self._full_since_s is not None:
            interval, mean = now_s - self._full_since_s, self._interval_s
            self._interval_s = interval if mean is None else mean + WEIGHT * (interval - mean)
        self._full_since_s = now_s

    def admit_waiting(self) -> None:
        """Let in who waits, as far as there is room. Called too when the endpoint becomes ready."""
        while True:
            waiter = self.queue.peek()
            if waiter is None or not waiter.may_enter(self) or not self.enter():
                return
            self.queue.pop()
            if not waiter.admit(self):
                self.count.remove()

    def retune(self, other: Gate) -> None:
        """Take the bounds of another gate; who is in stays in."""
        if type(other.bound) is not AdaptiveBound or type(self.bound) is not AdaptiveBound:
            self.bound = other.bound
        self.queue.bound = other.queue.bound
        self.admit_waiting()

    def expected_wait_s(self, position: int) -> float | None:
        """Return the expected wait at a place of the queue, from 1; `None`: not known yet."""
        return None if self._interval_s is None else position * self._interval_s
