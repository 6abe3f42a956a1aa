"""The gate of one endpoint: how many calls are in, and who waits before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from first_core.domain.bounds import AdaptiveBound
from first_core.domain.fair_queue import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock
    from first_core.domain.bounds import Bound

WEIGHT: Final = 0.1
"""Weight of the newest interval in the mean time between two calls that leave."""


class Waiter(Protocol):
    """One call that waits, maybe before several gates."""

    def admit(self, gate: Gate) -> bool:
        """Take a place inside `gate`; `False`: it has found one elsewhere, or has left."""


class Gate:
    """Lets calls in up to a bound and queues the others. All operations take O(log n).

    Args:
        clock: The time.
        bound: The most calls inside.
        max_queue: The most calls before it.

    `allows` says whether the endpoint takes calls at all now; its owner sets it.
    """

    __slots__ = (
        "_clock",
        "_interval_s",
        "_last_leave_s",
        "allows",
        "bound",
        "in_flight_count",
        "queue",
    )

    def __init__(self, clock: Clock, bound: Bound, max_queue: int) -> None:
        self._clock = clock
        self.allows: Callable[[], bool] = lambda: True
        self._interval_s: float | None = None
        self._last_leave_s = 0.0
        self.bound = bound
        self.in_flight_count = 0
        self.queue: FairQueue[Waiter] = FairQueue(max_queue)

    @property
    def has_room(self) -> bool:
        """Whether a call may go in at once. Whoever waits goes first."""
        return self.in_flight_count < self.bound.limit and not len(self.queue)

    def enter(self) -> None:
        """Let one call in."""
        self.in_flight_count += 1

    def leave(self) -> None:
        """Let one call out, and the next one in."""
        self.in_flight_count -= 1
        now_s = self._clock.monotonic()
        if len(self.queue):
            interval = now_s - self._last_leave_s
            mean = self._interval_s
            self._interval_s = interval if mean is None else mean + WEIGHT * (interval - mean)
        self._last_leave_s = now_s
        self.admit_waiting()

    def admit_waiting(self) -> None:
        """Let in who waits, as far as there is room. Called too when the endpoint becomes ready."""
        while len(self.queue) and self.in_flight_count < self.bound.limit and self.allows():
            ticket = self.queue.pop()
            if ticket is None:
                return
            if ticket.item.admit(self):
                self.in_flight_count += 1

    def retune(self, other: Gate) -> None:
        """Take the bounds of another gate; who is in stays in."""
        if type(other.bound) is not AdaptiveBound or type(self.bound) is not AdaptiveBound:
            self.bound = other.bound
        self.queue.bound = other.queue.bound
        self.admit_waiting()

    def expected_wait_s(self, position: int) -> float | None:
        """Return the expected wait at a place of the queue, from 1; `None`: not known yet."""
        return None if self._interval_s is None else position * self._interval_s
