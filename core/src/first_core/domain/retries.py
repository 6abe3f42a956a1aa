"""A budget for further attempts, so that retries never multiply an outage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from first_core.clock import Clock

RETRY_RATIO: Final = 0.2
"""Further attempts per call, in the long run. Source: Google, "Site Reliability Engineering",
chapter 21, bounds retries to a tenth of the requests; Finagle's `RetryBudget` to a fifth. Ours also
pays for failover, which loads another endpoint, so the larger one."""

RESERVE_PER_S: Final = 10.0
"""Further attempts per second that are free at any traffic, so that a quiet gateway fails over."""

LARGEST_BALANCE: Final = 100.0
"""Bound on what quiet times save up: ten seconds of the reserve."""


class RetryBudget:
    """One bucket for all calls of a router.

    Args:
        clock: The time.
        ratio: Further attempts that each call earns, 0 or more.
    """

    __slots__ = ("_balance", "_clock", "_ratio", "_refill_s")

    def __init__(self, clock: Clock, *, ratio: float = RETRY_RATIO) -> None:
        self._clock = clock
        self._ratio = ratio
        self._balance = LARGEST_BALANCE
        self._refill_s = clock.monotonic()

    def earn(self) -> None:
        """Note a call's first attempt."""
        self._balance = min(LARGEST_BALANCE, self._balance + self._ratio)

    def spend(self) -> bool:
        """Take one further attempt; `False`: the budget is used up."""
        now_s = self._clock.monotonic()
        refill = (now_s - self._refill_s) * RESERVE_PER_S
        self._refill_s = now_s
        self._balance = min(LARGEST_BALANCE, self._balance + refill)
        if self._balance < 1:
            return False
        self._balance -= 1
        return True
