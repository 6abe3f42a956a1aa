"""How many calls an endpoint may have in flight: fixed, or found from what its engine tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from first_core.types import EndpointLoad

UNBOUNDED: Final = 1_000_000
"""Stands for no bound: more calls than a process can hold."""

LEAST: Final = 4
"""An adaptive bound never falls below this, so that one bad second does not starve an endpoint."""

GROWTH_RATIO: Final = 0.1
"""An adaptive bound that is used up grows by this share with each look at an idle queue."""

SLOW_FACTOR: Final = 2.0
"""First chunks that take this much longer than the best ones mean that the endpoint is full.
Source: Netflix, concurrency-limits, `Gradient2Limit`, whose tolerance is 1.5; engines that batch
slow down a little with each call, so a wider one."""

SHRINK_RATIO: Final = 0.9
"""What is left of an adaptive bound after a look at a slow endpoint. Source: as above, backoff."""

SAMPLES_PER_LOOK: Final = 20
"""Answers between two looks at the latency."""


class Bound(ABC):
    """The most calls that may be in flight on one endpoint."""

    limit: int

    @abstractmethod
    def told(self, load: EndpointLoad, in_flight_count: int) -> None:
        """Take the engine's own figures."""

    @abstractmethod
    def answered(self, first_chunk_s: float, in_flight_count: int) -> None:
        """Take the time to the first chunk of a call that ended well."""


class FixedBound(Bound):
    """A bound that stays."""

    def __init__(self, limit: int | None) -> None:
        self.limit = UNBOUNDED if limit is None else limit

    def told(self, load: EndpointLoad, in_flight_count: int) -> None:
        """Change nothing."""

    def answered(self, first_chunk_s: float, in_flight_count: int) -> None:
        """Change nothing."""


class AdaptiveBound(Bound):
    """A bound that follows the engine.

    An engine that tells of waiting calls has more than it can run: those belong into our queue,
    where they are shared fairly and can still go elsewhere. Where an engine tells nothing, first
    chunks that get slow say the same.
    """

    def __init__(self) -> None:
        self.limit = UNBOUNDED
        self._tells = False
        self._best_s: float | None = None
        self._sum_s = 0.0
        self._count = 0

    def told(self, load: EndpointLoad, in_flight_count: int) -> None:
        """Shrink to what runs while calls wait in the engine, grow while none does.

        Others may use the engine too, so only our share of its waiting calls is taken for ours.
        """
        if load.waiting_count is None:
            return
        self._tells = True
        if load.waiting_count > 0:
            total = load.waiting_count + (load.running_count or 0)
            ours = round(load.waiting_count * min(1.0, in_flight_count / total))
            self.limit = max(LEAST, min(self.limit, in_flight_count - ours))
        else:
            self._grow(in_flight_count)

    def answered(self, first_chunk_s: float, in_flight_count: int) -> None:
        """Shrink while first chunks are slow, grow while they are quick."""
        if self._tells:
            return
        self._sum_s += first_chunk_s
        self._count += 1
        if self._count < SAMPLES_PER_LOOK:
            return
        mean = self._sum_s / self._count
        self._sum_s, self._count = 0.0, 0
        # The best mean ages, so that a server that became slower for good is believed.
        best = self._best_s = min(mean, (self._best_s or mean) * 1.01)
        if mean > SLOW_FACTOR * best:
            self.limit = max(LEAST, int(min(self.limit, in_flight_count) * SHRINK_RATIO))
        else:
            self._grow(in_flight_count)

    def _grow(self, in_flight_count: int) -> None:
        if self.limit < UNBOUNDED and in_flight_count >= self.limit:
            self.limit += max(1, int(self.limit * GROWTH_RATIO))
