"""The default policy `first`: five tiers, then the least outstanding calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.plugin.policy import C, RoutingPolicy
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin.policy import Candidate, RouteRequest

TIERS: Final = ("running", "queued", "cluster has free nodes", "cluster is online", "configured")
"""Source: the federated routing of FIRST, which tries running jobs, then queued ones, then clusters
with free nodes, then any that is online, then the first one configured."""


def tier(candidate: Candidate) -> int:
    """Return the candidate's place in `TIERS`."""
    report = candidate.report
    if report.state is EndpointState.READY:
        return 0
    if report.state in {EndpointState.QUEUED, EndpointState.STARTING}:
        return 1
    if report.state is EndpointState.COLD:
        return 2 if report.free_node_count else 3
    return 4


class TiersPolicy(RoutingPolicy):
    """Prefers what runs, then what will run soonest; within a tier the least outstanding calls."""

    def choose(self, request: RouteRequest, candidates: Sequence[C]) -> C:
        """Return the best tier's candidate with the fewest calls; the first one among equals."""
        del request
        return min(candidates, key=lambda c: (tier(c), c.outstanding_count, c.order))

    def explain(self, request: RouteRequest, candidate: Candidate) -> str:
        """Name the tier and the calls."""
        del request
        return f"{TIERS[tier(candidate)]}, {candidate.outstanding_count} outstanding"
