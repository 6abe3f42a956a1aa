"""The default policy `first`: five tiers, then the least outstanding calls."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final

from first_core.plugin.policy import C, RoutingPolicy
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest

TIERS: Final = ("running", "queued", "cluster has free nodes", "cluster is online", "configured")
"""Source: the federated routing of FIRST, which tries running jobs, then queued ones, then clusters
with free nodes, then any that is online, then the first one configured."""


_READY: Final = EndpointState.READY
_TIER_OF: Final = {
    EndpointState.READY: 0,
    EndpointState.QUEUED: 1,
    EndpointState.STARTING: 1,
    EndpointState.COLD: 3,
}
_outstanding_count: Final = attrgetter("outstanding_count")


def tier(candidate: Candidate) -> int:
    """Return the candidate's place in `TIERS`."""
    report = candidate.report
    found = _TIER_OF.get(report.state, 4)
    return 2 if found == 3 and report.free_node_count else found  # noqa: PLR2004 - see `TIERS`


def best_tier(candidates: Sequence[C]) -> Sequence[C]:
    """Return the candidates of the best tier that any is in, in their order."""
    ready = [c for c in candidates if c.report.state is _READY]
    if ready:
        return ready
    best = min(map(tier, candidates))
    return [c for c in candidates if tier(c) == best]


class TiersPolicy(RoutingPolicy):
    """Prefers what runs, then what will run soonest; within a tier the least outstanding calls."""

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the best tier's candidate with the fewest calls; the first one among equals."""
        del request
        return min(best_tier(candidates), key=_outstanding_count)

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Name the tier and the calls."""
        del request
        return f"{TIERS[tier(candidate)]}, {candidate.outstanding_count} outstanding"
