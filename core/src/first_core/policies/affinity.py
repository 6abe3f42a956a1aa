"""The policy `affinity`: equal keys go to the same endpoint, as long as it is not overloaded."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from first_core.plugin.policy import C, RoutingPolicy
from first_core.policies.load import load_of
from first_core.policies.tiers import tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest

LOAD_FACTOR: Final = 1.25
"""No candidate gets a call while it has this much more than its fair share of those outstanding.
Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018; 1.25 is
what HAProxy and Envoy advise."""


class AffinityPolicy(RoutingPolicy):
    """Rendezvous hashing with bounded load.

    Each candidate draws a number from key and name; the largest wins, scaled by weight. When a
    candidate leaves only its own keys move. Source: Thaler, Ravishankar, "Using Name-Based Mappings
    to Increase Hit Rates", IEEE/ACM ToN 1998. Calls without a key go to the least loaded.
    """

    needs_affinity = True

    def __init__(self) -> None:
        self._seeds: dict[str, int] = {}

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the key's candidate, or the next one of its order while that one is overloaded."""
        best = min(tier(c) for c in candidates)
        found = [c for c in candidates if tier(c) == best]
        if not request.affinity_key:
            return min(found, key=lambda c: (load_of(c) / c.weight, c.order))
        weights = sum(c.weight for c in found)
        share = LOAD_FACTOR * (1 + sum(c.outstanding_count for c in found)) / weights
        open_ones = [c for c in found if c.outstanding_count + 1 <= max(1.0, share * c.weight)]
        key = _number(request.affinity_key)
        return max(open_ones or found, key=lambda c: self._draw(key, c))

    def _draw(self, key: int, candidate: Candidate) -> float:
        name = str(candidate.report.id)
        seed = self._seeds.get(name)
        if seed is None:
            if len(self._seeds) >= MAX_SEEDS:
                self._seeds.clear()
            seed = self._seeds[name] = _number(name.encode())
        return _mix(key ^ seed) * candidate.weight

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the drawn number, or the load where there is no key."""
        if not request.affinity_key:
            return f"no key, load {load_of(candidate):.1f}"
        return f"drew {self._draw(_number(request.affinity_key), candidate):.3f}"


MAX_SEEDS: Final = 10_000
"""Names whose seed is kept; more than a catalog has."""

_MASK: Final = (1 << 64) - 1


def _number(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _mix(value: int) -> float:
    """Return a number in [0, 1) that depends on all bits of `value`.

    The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): far cheaper than a hash for each
    candidate and call.
    """
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return (value ^ (value >> 31)) / (1 << 64)
