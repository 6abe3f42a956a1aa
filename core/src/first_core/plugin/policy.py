"""What a routing policy is: it chooses one endpoint out of those that may answer a call."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.backend import EndpointReport
    from first_core.types import Operation


class Candidate(Protocol):
    """An endpoint that may answer, as it stands now. Policies read it and change nothing."""

    @property
    def report(self) -> EndpointReport:
        """What its backend said last."""

    @property
    def order(self) -> int:
        """Its place in the configured order, from 0."""

    @property
    def weight(self) -> float:
        """Its configured share, above 0; 1 by default."""

    @property
    def outstanding_count(self) -> int:
        """Calls of this gateway that it runs now."""

    @property
    def queued_count(self) -> int:
        """Calls of this gateway that wait for it."""

    @property
    def first_chunk_s(self) -> float | None:
        """Learned mean time to its first chunk, in seconds; `None`: not known."""


C = TypeVar("C", bound=Candidate)


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """What a policy may know of a call."""

    operation: Operation
    """What is asked."""
    model: str
    """The model that was asked for."""
    affinity_key: bytes = b""
    """Equal for calls that gain from the same endpoint: the session key, else a digest of the
    prompt's beginning. Empty: there is none, or the policy did not ask (`needs_affinity`)."""


class RoutingPolicy(ABC):
    """Chooses endpoints. One object per model, so a policy may keep state; it never waits.

    Called on the event loop for each attempt: at most 20 µs for 8 candidates and 100 µs for 200.
    """

    needs_affinity: bool = False
    """Whether `RouteRequest.affinity_key` shall be filled; a digest of the prompt costs time."""

    @abstractmethod
    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the candidate for the next attempt.

        Args:
            request: The call.
            candidates: One or more, in configured order; those that failed in this call, or have
                no room, are not among them.
        """

    def preview(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the candidate that `choose` would return, and change no state.

        A copy of the policy is asked. Override it where a copy is not possible.
        """
        return copy.deepcopy(self).choose(request, candidates)

    @abstractmethod
    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Return in a few words what speaks for or against a candidate, for a person.

        Changes no state.
        """
