"""A bounded queue that shares fairly: classes first, tenants by weight, first come within."""

from __future__ import annotations

import enum
import heapq
import itertools
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(enum.IntEnum):
    """Which calls go first; lower numbers do."""

    INTERACTIVE = 0
    BATCH = 1


class Ticket(Generic[T]):
    """One place in a queue."""

    __slots__ = ("is_waiting", "item", "key")

    def __init__(self, item: T, key: tuple[int, float, int]) -> None:
        self.item = item
        self.key = key
        self.is_waiting = True

    def __lt__(self, other: Ticket[T]) -> bool:
        return self.key < other.key


class FairQueue(Generic[T]):
    """Self-clocked fair queueing over tenants.

    Each ticket gets a finish tag: the larger of the queue's and its tenant's virtual time, plus one
    over the tenant's weight; the least tag goes first. A tenant with twice the weight is served
    twice as often while both wait, and nobody waits for one that does not. Push and pop take
    O(log n), leaving takes O(1): the place is dropped when it comes up.
    Source: S. J. Golestani, "A Self-Clocked Fair Queueing Scheme", INFOCOM 1994.

    Args:
        bound: Most tickets that may wait.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._heap: list[Ticket[T]] = []
        self.waiting_count = 0
        """How many tickets wait."""
        # A class of its own shares on its own: a backlog of batch calls costs its tenant nothing
        # among interactive ones.
        self._virtual_times = [0.0] * len(Priority)
        self._finish_tags: dict[tuple[Priority, str], float] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        """Return how many tickets wait."""
        return self.waiting_count

    @property
    def is_full(self) -> bool:
        """Whether no further ticket may wait."""
        return self.waiting_count >= self.bound

    def push(
        self,
        item: T,
        *,
        tenant: str,
        weight: float = 1.0,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Ticket[T]:
        """Queue `item` and return its ticket. The caller asks `is_full` first.

        Args:
            item: What waits.
            tenant: Who shares; tickets of one tenant keep their order within a priority.
            weight: The tenant's share, above 0.
            priority: Lower ones are all served before higher ones.
        """
        share = (priority, tenant)
        begin = max(self._virtual_times[priority], self._finish_tags.get(share, 0.0))
        tag = begin + 1 / weight
        self._finish_tags[share] = tag
        ticket = Ticket(item, (int(priority), tag, next(self._order)))
        heapq.heappush(self._heap, ticket)
        self.waiting_count += 1
        return ticket

    def peek(self) -> T | None:
        """Return who is next and leave it there; `None`: nobody waits."""
        while self._heap and not self._heap[0].is_waiting:
            heapq.heappop(self._heap)
        return self._heap[0].item if self._heap else None

    def pop(self) -> Ticket[T] | None:
        """Take the ticket that is next; `None`: nobody waits."""
        while self._heap:
            ticket = heapq.heappop(self._heap)
            if ticket.is_waiting:
                priority, tag, _ = ticket.key
                self._virtual_times[priority] = max(self._virtual_times[priority], tag)
                self.leave(ticket)
                return ticket
        return None

    def leave(self, ticket: Ticket[T]) -> None:
        """Give a place up; safe to repeat, also after `pop`."""
        if not ticket.is_waiting:
            return
        ticket.is_waiting = False
        self.waiting_count -= 1
        if self.waiting_count == 0:
            # An empty queue starts anew: nothing of it may grow for ever.
            self._heap.clear()
            self._finish_tags.clear()
            self._virtual_times = [0.0] * len(Priority)
        elif len(self._heap) > 2 * self.waiting_count + 16:
            self._heap = [t for t in self._heap if t.is_waiting]
            heapq.heapify(self._heap)
        if len(self._finish_tags) > 2 * self.waiting_count + 64:
            # A tag that time has passed says nothing; without this a queue that is never empty
            # would keep one for each tenant it ever had.
            times = self._virtual_times
            tags = self._finish_tags.items()
            self._finish_tags = {share: tag for share, tag in tags if tag > times[share[0]]}

    def position(self, ticket: Ticket[T]) -> int:
        """Return how many are served before `ticket`, plus one; O(n), for progress only."""
        return 1 + sum(1 for t in self._heap if t.is_waiting and t < ticket)
