"""The policy `affinity`: equal keys go to the same endpoint, as long as it is not overloaded."""

from __future__ import annotations

from hashlib import blake2b
from math import inf, log
from typing import TYPE_CHECKING, Final

from first_core.plugin.policy import C, RoutingPolicy
from first_core.policies.load import load_of
from first_core.policies.tiers import best_tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest

LOAD_FACTOR: Final = 1.25
"""No candidate gets a call while it has this much more than its fair share of those outstanding.
Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018; 1.25 is
what HAProxy and Envoy advise."""


class AffinityPolicy(RoutingPolicy):
    """Rendezvous hashing with bounded load.

    Each candidate draws a number from key and name; the largest wins, by weight. When a
    candidate leaves only its own keys move. Source: Thaler, Ravishankar, "Using Name-Based Mappings
    to Increase Hit Rates", IEEE/ACM ToN 1998. Calls without a key go to the least loaded.
    """

    needs_affinity = True

    def __init__(self) -> None:
        self._seeds: dict[Candidate, int] = {}

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the key's candidate, or the next one of its order while that one is overloaded."""
        found = best_tier(candidates)
        if not request.affinity_key:
            return min(found, key=lambda c: load_of(c) / c.weight)
        weights = [c.weight for c in found]
        draws = self._draws(_number(request.affinity_key), found, weights)
        chosen = found[draws.index(max(draws))]
        if not chosen.outstanding_count:
            return chosen  # one call is nobody's overload
        counts = [c.outstanding_count for c in found]
        share = LOAD_FACTOR * (1 + sum(counts)) / sum(weights)
        if chosen.outstanding_count + 1 <= share * chosen.weight:
            return chosen
        # Rare, so that the load of the others is looked at only now.
        left = [
            draw if not count or count + 1 <= share * weight else -inf
            for draw, count, weight in zip(draws, counts, weights, strict=True)
        ]
        best = max(left)
        return chosen if best == -inf else found[left.index(best)]

    def _draws(self, key: int, found: Sequence[Candidate], weights: list[float]) -> list[float]:
        """Return each candidate's number in this key's lottery."""
        try:
            if min(weights) != max(weights):
                return [self._draw(key, c) for c in found]
            seeds = self._seeds
            # The logarithm keeps the order, so even candidates need none.
            return [key * seeds[c] % _PRIME for c in found]
        except KeyError:  # some are new
            self._learn(found)
            return self._draws(key, found, weights)

    def _draw(self, key: int, candidate: Candidate) -> float:
        """Return a candidate's number in this key's lottery.

        With the logarithm the chance to win is the weight's share of all weights. Source:
        Schindelhauer, Schomaker, "Weighted Distributed Hash Tables", SPAA 2005.
        """
        number = (key * self._seeds[candidate] % _PRIME + 1) / _PRIME
        return log(number) / candidate.weight

    def _learn(self, candidates: Sequence[Candidate]) -> None:
        seeds = self._seeds
        if len(seeds) > max(MAX_SEEDS, 2 * len(candidates)):
            seeds.clear()  # most are of endpoints that left
        for candidate in candidates:
            if candidate not in seeds:
                seeds[candidate] = _number(str(candidate.report.id).encode())

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the drawn number, or the load where there is no key."""
        self._learn((candidate,))
        if not request.affinity_key:
            return f"no key, load {load_of(candidate):.1f}"
        return f"drew {self._draw(_number(request.affinity_key), candidate):.3f}"


MAX_SEEDS: Final = 1000
"""Candidates whose seed is kept, or twice as many as there are now where that is more."""

_PRIME: Final = (1 << 61) - 1
"""Key times seed modulo a prime draws as evenly as a hash of both, for a quarter of its time in
Python. Source: Carter, Wegman, "Universal Classes of Hash Functions", JCSS 1979."""


def _number(data: bytes) -> int:
    """Return a number below the prime that stands for `data`, the same in all processes."""
    return int.from_bytes(blake2b(data, digest_size=7).digest(), "big")
