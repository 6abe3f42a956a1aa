"""What the relay works with: made from the settings at once, swapped at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from first_core.domain.admission import Admission
from first_core.domain.bounds import AdaptiveBound, FixedBound
from first_core.domain.call_count import LocalCounts
from first_core.domain.gate import Gate
from first_core.domain.retries import RetryBudget

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.domain.call_count import CountOf
    from first_core.domain.catalog import Tune
    from first_core.domain.routes import Routes
    from first_core.settings import CoreSettings, EndpointSettings
    from first_core.types import EndpointId, Timeouts


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """One generation of what calls are run by. Calls in flight keep the one they began with."""

    settings: CoreSettings
    routes: Routes
    admission: Admission
    budget: RetryBudget
    forward_headers: frozenset[str]


def relay_config(settings: CoreSettings, routes: Routes, clock: Clock) -> RelayConfig:
    """Return the generation that the settings describe."""
    return RelayConfig(
        settings=settings,
        routes=routes,
        admission=Admission(clock, settings.admission),
        budget=RetryBudget(clock, ratio=settings.resilience.retry_ratio),
        forward_headers=frozenset(name.lower() for name in settings.forward_headers),
    )


def tune_for(settings: CoreSettings, clock: Clock, count_of: CountOf | None = None) -> Tune:
    """Return what gives endpoints their gate and their bounds in time.

    Args:
        settings: Of the core.
        clock: The time.
        count_of: Gives each gate its count of calls; `None`: one for this process alone.
    """
    count_of = count_of or LocalCounts()
    default = settings.timeouts.bounds()

    def tune(endpoint: EndpointId) -> tuple[Gate, Timeouts]:
        rule = next((r for r in settings.endpoints if _matches(r, endpoint)), None)
        limit = "auto" if rule is None else rule.max_in_flight
        bound = AdaptiveBound() if limit == "auto" else FixedBound(limit)
        timeouts = rule.timeouts.bounds() if rule and rule.timeouts else default
        gate = Gate(clock, bound, settings.admission.max_queue, count_of(endpoint))
        return gate, timeouts

    return tune


def _matches(rule: EndpointSettings, endpoint: EndpointId) -> bool:
    wanted = (rule.cluster, rule.framework, rule.model)
    has = (endpoint.cluster, endpoint.framework, endpoint.model)
    return all(want is None or want == value for want, value in zip(wanted, has, strict=True))
