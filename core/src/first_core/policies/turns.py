"""Policies that take turns: `round_robin` and `weighted`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.plugin.policy import C, RoutingPolicy
from first_core.policies.tiers import best_tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest


class WeightedPolicy(RoutingPolicy):
    """Shares calls by weight, spread evenly in time.

    Smooth weighted round robin: each turn every candidate gains its weight, the one that has most
    is chosen and pays the sum of all weights. Source: nginx, `ngx_http_upstream_round_robin.c`.
    """

    def __init__(self) -> None:
        self._credit: dict[int, float] = {}
        """By order, which is quicker than by name; who takes a place takes its credit too."""

    def weight(self, candidate: Candidate) -> float:
        """Return a candidate's share."""
        return candidate.weight

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the candidate of the best tier whose turn it is."""
        del request
        # Who is away for one call keeps the credit, or who fails would gain by it.
        credit, total, most = self._credit, 0.0, float("-inf")
        found = best_tier(candidates)
        chosen = found[0]
        for candidate in found:
            order, weight = candidate.order, self.weight(candidate)
            has = credit[order] = credit.get(order, 0.0) + weight
            total += weight
            if has > most:
                chosen, most = candidate, has
        credit[chosen.order] -= total
        return chosen

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the share and the credit."""
        del request
        credit = self._credit.get(candidate.order, 0.0)
        return f"weight {self.weight(candidate):g}, credit {credit:g}"


class RoundRobinPolicy(WeightedPolicy):
    """Takes turns, whatever the weights."""

    def weight(self, candidate: Candidate) -> float:
        """Return the same share for each."""
        del candidate
        return 1.0
