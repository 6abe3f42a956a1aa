"""Policies that take turns: `round_robin` and `weighted`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.plugin.policy import C, RoutingPolicy
from first_core.policies.tiers import tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest
    from first_core.types import EndpointId


class WeightedPolicy(RoutingPolicy):
    """Shares calls by weight, spread evenly in time.

    Smooth weighted round robin: each turn every candidate gains its weight, the one that has most
    is chosen and pays the sum of all weights. Source: nginx, `ngx_http_upstream_round_robin.c`.
    """

    def __init__(self) -> None:
        self._credit: dict[EndpointId, float] = {}

    def weight(self, candidate: Candidate) -> float:
        """Return a candidate's share."""
        return candidate.weight

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the candidate of the best tier whose turn it is."""
        del request
        best = min(tier(c) for c in candidates)
        found = [c for c in candidates if tier(c) == best]
        # Endpoints that left leave nothing behind.
        old, self._credit = self._credit, {}
        total = 0.0
        for candidate in found:
            key, weight = candidate.report.id, self.weight(candidate)
            self._credit[key] = old.get(key, 0.0) + weight
            total += weight
        chosen = max(found, key=lambda c: self._credit[c.report.id])
        self._credit[chosen.report.id] -= total
        return chosen

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the share and the credit."""
        del request
        credit = self._credit.get(candidate.report.id, 0.0)
        return f"weight {self.weight(candidate):g}, credit {credit:g}"


class RoundRobinPolicy(WeightedPolicy):
    """Takes turns, whatever the weights."""

    def weight(self, candidate: Candidate) -> float:
        """Return the same share for each."""
        del candidate
        return 1.0
