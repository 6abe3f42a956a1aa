"""Offers the built-in policies, through the same hook as any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.plugin.hookspecs import hookimpl
from first_core.policies.affinity import AffinityPolicy
from first_core.policies.load import LatencyPolicy, LeastLoadedPolicy
from first_core.policies.tiers import TiersPolicy
from first_core.policies.turns import RoundRobinPolicy, WeightedPolicy

if TYPE_CHECKING:
    from first_core.plugin.registers import PolicyRegister


@hookimpl
def first_register_policies(register: PolicyRegister) -> None:
    """Offer the policies of the router itself."""
    register("first", TiersPolicy)
    register("least_loaded", LeastLoadedPolicy)
    register("weighted", WeightedPolicy)
    register("round_robin", RoundRobinPolicy)
    register("latency", LatencyPolicy)
    register("affinity", AffinityPolicy)
