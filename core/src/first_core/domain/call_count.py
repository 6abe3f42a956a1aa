"""Counts the calls inside the gate of one endpoint: of this process, or of several together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias
from weakref import WeakValueDictionary

from first_core.types import EndpointId


class CallCount(Protocol):
    """How many calls one endpoint runs. Belongs to the event loop's thread; never blocks."""

    @property
    def total(self) -> int:
        """Calls inside now, of all processes that share the count."""

    def try_add(self, limit: int) -> bool:
        """Count one more call, unless there are `limit` already; tell whether it was counted."""

    def remove(self) -> None:
        """Count one call less; one that this process has counted."""


CountOf: TypeAlias = Callable[[EndpointId], CallCount]
"""Returns the count of an endpoint, the same one as long as anybody holds it."""


class LocalCount:
    """Counts the calls of this process."""

    __slots__ = ("__weakref__", "total")

    def __init__(self) -> None:
        self.total = 0

    def try_add(self, limit: int) -> bool:
        """Count one more call, unless there are `limit` already."""
        if self.total >= limit:
            return False
        self.total += 1
        return True

    def remove(self) -> None:
        """Count one call less."""
        self.total -= 1


class LocalCounts:
    """The counts of one process. An endpoint whose backend is replaced keeps its count."""

    def __init__(self) -> None:
        self._counts: WeakValueDictionary[EndpointId, LocalCount] = WeakValueDictionary()

    def __call__(self, endpoint: EndpointId) -> CallCount:
        """Return the count of an endpoint."""
        count = self._counts.get(endpoint)
        if count is None:
            count = self._counts[endpoint] = LocalCount()
        return count
