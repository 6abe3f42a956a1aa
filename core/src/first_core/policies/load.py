"""Policies that look at load: `least_loaded` and `latency`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.plugin.policy import C, RoutingPolicy
from first_core.policies.tiers import best_tier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest


def load_of(candidate: Candidate) -> float:
    """Return how busy a candidate is: calls in its engine, waiting ones counted four times.

    The engine's own figures are up to a second old, so our own calls count where they are more.
    A call that waits inside an engine delays the next one by a whole call, one that runs only
    slows it down.
    """
    load = candidate.report.load
    running: float = candidate.outstanding_count
    if load is None:
        return running + candidate.queued_count
    told = load.running_count
    if told is not None and told > running:
        running = told
    if load.waiting_count:
        running += 4 * load.waiting_count
    return running + (load.cache_usage_ratio or 0.0) + candidate.queued_count


class LeastLoadedPolicy(RoutingPolicy):
    """Prefers the endpoint whose engine is least busy, by its own figures where it tells any."""

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the least busy candidate of the best tier."""
        del request
        return min(best_tier(candidates), key=lambda c: load_of(c) / c.weight)

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the load."""
        del request
        return f"load {load_of(candidate):.1f}"


UNKNOWN_FIRST_CHUNK_S = 0.05
"""Taken for an endpoint that has not answered yet: quick, so that it is tried."""


def expected_first_chunk_s(candidate: Candidate) -> float:
    """Return the expected time to the first chunk: what was learned, and the wait until ready.

    Each call before ours is taken to add a tenth of it: engines batch, so calls hardly wait for
    each other until the engine is full.
    """
    learned = candidate.first_chunk_s or UNKNOWN_FIRST_CHUNK_S
    ahead = candidate.outstanding_count + candidate.queued_count
    return learned * (1 + ahead / 10) + (candidate.report.expected_wait_s or 0.0)


class LatencyPolicy(RoutingPolicy):
    """Prefers the endpoint that is expected to answer first, learned from its answers."""

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the candidate with the least expected time to its first chunk."""
        del request
        return min(best_tier(candidates), key=expected_first_chunk_s)

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Tell the expected time."""
        del request
        return f"first chunk in {expected_first_chunk_s(candidate) * 1000:.0f} ms"
