"""Tells where a call would go now, and why. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from first_core.domain.admission import with_room
from first_core.plugin.policy import RouteRequest
from first_core.types import EndpointState, Operation, Pin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.domain.routes import Route, Routes, Target


@dataclass(frozen=True, slots=True)
class Wish:
    """What a call would ask for."""

    model: str
    operation: Operation
    pin: Pin
    session_key: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What speaks for or against one endpoint."""

    target: Target
    chosen: bool
    reason: str
    policy_note: str
    spared_s: float
    """How long it is spared from now on, by its breaker or at its own wish; 0: it is not."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a call would go."""

    model: str
    policy: str
    candidates: tuple[Verdict, ...]
    fallbacks: tuple[str, ...]
    outcome: str


def explain_route(routes: Routes, wish: Wish, now_s: float) -> Explanation | None:
    """Return where the first attempt of a call would go; `None`: nobody knows the model.

    Args:
        routes: As configured now.
        wish: The call.
        now_s: Monotonic time.
    """
    route = routes.resolve(wish.model)
    if route is None:
        return None
    request = RouteRequest(wish.operation, route.model, wish.session_key.encode())
    fitting = [t for t in route.targets if not _misfit(t, wish)]
    free = with_room(fitting, now_s)
    chosen = route.policy.preview(request, free) if free else None
    verdicts = tuple(
        Verdict(
            target=target,
            chosen=target is chosen,
            reason=_reason(target, wish, now_s, free=target in free, chosen=target is chosen),
            policy_note=route.policy.explain(request, target),
            spared_s=_spared_s(target, now_s),
        )
        for target in route.targets
    )
    outcome = _outcome(route, fitting, chosen)
    return Explanation(route.model, route.policy_name, verdicts, route.fallbacks, outcome)


def _misfit(target: Target, wish: Wish) -> str:
    """Return why a call may never go there; empty: it may."""
    if not wish.pin.fits(target.report.id):
        return "not where the call is pinned to"
    if wish.operation not in target.report.operations:
        return f"does not offer {wish.operation.name.lower()}"
    return ""


def _reason(target: Target, wish: Wish, now_s: float, *, free: bool, chosen: bool) -> str:
    misfit = _misfit(target, wish)
    if misfit:
        return misfit
    if free and not target.endpoint.takes_calls():
        return "chosen: its breaker is open, and there is no other"
    if free:
        return "chosen by the policy" if chosen else "takes calls"
    return _why_not(target, now_s)


def _why_not(target: Target, now_s: float) -> str:
    endpoint = target.endpoint
    if not endpoint.is_ready:
        return f"is {endpoint.state.name.lower()}"
    if endpoint.resting_until_s > now_s:
        return f"asked not to be called for {endpoint.resting_until_s - now_s:.1f} s"
    if not endpoint.breaker.allows():
        left_s = max(0.0, endpoint.breaker.opened_until_s - now_s)
        return f"its last calls failed; asked again in {left_s:.1f} s"
    gate = endpoint.gate
    return f"full: {gate.in_flight_count} of {gate.bound.limit} in flight, {len(gate.queue)} wait"


def _spared_s(target: Target, now_s: float) -> float:
    endpoint = target.endpoint
    ends = [endpoint.resting_until_s]
    if endpoint.breaker.is_open:
        ends.append(endpoint.breaker.opened_until_s)
    return max(0.0, max(ends) - now_s)


def _outcome(route: Route, fitting: Sequence[Target], chosen: Target | None) -> str:
    if chosen is not None:
        return f"the first attempt goes to {chosen.report.id}"
    if not fitting:
        return "refused: no endpoint fits the call"
    then = f", then to {', '.join(route.fallbacks)}" if route.fallbacks else ""
    if any(t.endpoint.state is EndpointState.READY for t in fitting):
        return f"waits for room{then}"
    return f"waits until an endpoint is ready, as far as the call allows it{then}"
