"""Lets a call in at one of its endpoints, or has it wait until there is room."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from first_core.errors import EndpointColdError, LimitExceededError, OverloadedError
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from first_core.clock import Clock
    from first_core.domain.catalog import Endpoint
    from first_core.domain.fair_queue import Priority, Ticket
    from first_core.domain.gate import Gate, Waiter
    from first_core.domain.routes import Target
    from first_core.errors import FirstError
    from first_core.plugin.policy import RouteRequest, RoutingPolicy
    from first_core.settings import AdmissionSettings

COLD_RETRY_AFTER_S: Final = 10.0
"""What `Retry-After` says when nobody knows the wait. Local servers are seen again within 2 s, a
large model loads for minutes; a client that comes back after 10 s costs nothing."""

FULL_RETRY_AFTER_S: Final = 1.0
"""The same for a queue that has not moved yet."""

LOOK_S: Final = 1.0
"""How often a call that waits looks whether endpoints came or went, or a breaker let up."""

_WAITABLE: Final = frozenset({EndpointState.STARTING, EndpointState.QUEUED, EndpointState.COLD})


@dataclass(frozen=True, slots=True)
class Progress:
    """Why a call waits. `queue_position` is 0 while nothing is ready to queue for."""

    state: EndpointState
    queue_position: int
    expected_wait_s: float | None


@dataclass(frozen=True, slots=True)
class WaitTerms:
    """How a call waits."""

    budget_s: float | None
    """Longest wait that the caller wants, in seconds; `None`: it did not say."""
    tenant: str
    priority: Priority


class Entry:
    """One call's place inside the gate of an endpoint. Whoever holds it leaves the gate."""

    __slots__ = ("endpoint", "is_probe")

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.is_probe = endpoint.breaker.begin()
        """Whether this call shows whether the endpoint is back."""

    def give_up(self) -> None:
        """Leave without having called."""
        self.endpoint.breaker.abandoned(is_probe=self.is_probe)
        self.endpoint.gate.leave()


def with_room(targets: Sequence[Target], now_s: float, *, panics: bool = True) -> list[Target]:
    """Return the targets that take a call at once.

    Args:
        targets: Where it may go.
        now_s: Monotonic time.
        panics: Whether one whose breaker is open will do where there is no other.
    """
    usable = [t for t in targets if t.endpoint.takes_calls()]
    if not usable and panics:
        last = _last_resort(targets, now_s)
        usable = [] if last is None else [last]
    return [t for t in usable if t.endpoint.gate.has_room]


class Admission:
    """Chooses endpoints with room, and holds calls that find none.

    Args:
        clock: The time.
        settings: The section `admission`.
    """

    def __init__(self, clock: Clock, settings: AdmissionSettings) -> None:
        self._clock = clock
        self._settings = settings

    def try_enter(
        self,
        policy: RoutingPolicy,
        request: RouteRequest,
        targets: Sequence[Target],
        *,
        panics: bool = True,
    ) -> Entry | None:
        """Enter the gate of the best target that has room now; `None`: there is none.

        Args:
            policy: Chooses among those with room.
            request: The call.
            targets: Where it may go.
            panics: Whether one whose breaker is open will do where there is no other.
        """
        free = with_room(targets, self._clock.monotonic(), panics=panics)
        while free:
            target = free[0] if len(free) == 1 else policy.choose(request, free)
            if target.endpoint.gate.enter():
                return Entry(target.endpoint)
            free.remove(target)
        return None

    async def enter(
        self,
        policy: RoutingPolicy,
        request: RouteRequest,
        targets: Sequence[Target],
        terms: WaitTerms,
        *,
        find: Callable[[], Sequence[Target]] = tuple,
        tell: Callable[[Progress], Awaitable[None]] | None = None,
    ) -> Entry:
        """Enter the gate of a target, after a wait if need be. The caller leaves the gate.

        Args:
            policy: Chooses among those with room.
            request: The call.
            targets: Where it may go, one or more.
            terms: How long it may wait, and for whom.
            find: Returns the targets as they are later; while there are none, the old ones count.
            tell: Told now and then why it waits.

        Raises:
            CapacityError: No room within the wait; `retry_after_s` is set.
        """
        entry = self.try_enter(policy, request, targets)
        if entry is not None:
            return entry
        budget_s = self._budget_s(targets, terms)
        error = self._refusal(targets, budget_s)
        if budget_s <= 0 or error is not None:
            _wake(targets)  # who comes back after the time told finds it started
            raise error or self._no_room(targets)
        return await self._wait(targets, find, terms, budget_s, tell)

    def _budget_s(self, targets: Sequence[Target], terms: WaitTerms) -> float:
        if terms.budget_s is not None:
            return min(terms.budget_s, self._settings.max_wait_s)
        if any(t.endpoint.is_ready for t in targets):
            return self._settings.wait_s
        return self._settings.cold_wait_s

    def _refusal(self, targets: Sequence[Target], budget_s: float) -> FirstError | None:
        """Return why waiting is of no use; `None`: it is worth it."""
        ready = [t for t in targets if t.endpoint.is_ready]
        waitable = ready or [t for t in targets if t.endpoint.state in _WAITABLE]
        if not waitable and budget_s <= self._settings.cold_wait_s:
            return self._no_room(targets)
        if all(t.endpoint.gate.queue.is_full for t in waitable or targets):
            return self._no_room(targets)
        if not ready and waitable and _longer_than(budget_s, waitable):
            return self._no_room(targets)
        return None

    def _no_room(self, targets: Sequence[Target]) -> FirstError:
        """Return the error that tells the truth about when to come again."""
        model = targets[0].report.id.model
        ready = [t for t in targets if t.endpoint.is_ready]
        if not ready:
            best = min(targets, key=lambda t: _STATE_ORDER.index(t.endpoint.state))
            state = best.endpoint.state.name.lower()
            reason = best.report.state_reason
            return EndpointColdError(
                f"the model {model!r} is not ready: its endpoint is {state}"
                + (f" ({reason})" if reason else ""),
                metadata={"model": model, "state": state, "state_reason": reason},
                retry_after_s=_soonest_s(targets) or COLD_RETRY_AFTER_S,
            )
        now_s = self._clock.monotonic()
        rests = [t.endpoint.resting_until_s - now_s for t in ready]
        if min(rests) > 0:
            return LimitExceededError(
                f"the endpoints of the model {model!r} asked to be called later",
                metadata={"model": model},
                retry_after_s=min(rests),
            )
        waits = [
            _wait_s(t.endpoint.gate, len(t.endpoint.gate.queue) + 1)
            for t, rest in zip(ready, rests, strict=True)
            if rest <= 0
        ]
        return OverloadedError(
            f"the model {model!r} is full", metadata={"model": model}, retry_after_s=min(waits)
        )

    async def _wait(
        self,
        targets: Sequence[Target],
        find: Callable[[], Sequence[Target]],
        terms: WaitTerms,
        budget_s: float,
        tell: Callable[[Progress], Awaitable[None]] | None,
    ) -> Entry:
        weight = self._settings.tenant_weights.get(terms.tenant, 1.0)
        waiting = _Waiting(terms, weight, self._clock)
        end_s = self._clock.monotonic() + budget_s
        told_s = -self._settings.progress_s
        try:
            while True:
                targets = find() or targets
                waiting.join(targets)
                _wake(targets)
                if waiting.entry is None and tell is not None:
                    now_s = self._clock.monotonic()
                    if now_s - told_s >= self._settings.progress_s:
                        told_s = now_s
                        await tell(waiting.progress())
                left_s = end_s - self._clock.monotonic()
                if waiting.entry is None and left_s <= 0:
                    raise self._no_room(targets)
                if waiting.entry is None:
                    await waiting.wait(min(left_s, LOOK_S))
                if waiting.entry is not None:
                    return waiting.take()
        finally:
            waiting.leave()


class _Waiting:
    """One call that waits before the gates of all its targets at once."""

    def __init__(self, terms: WaitTerms, weight: float, clock: Clock) -> None:
        self._clock = clock
        self._terms = terms
        self._weight = weight
        self._tickets: dict[Gate, tuple[Target, Ticket[Waiter]]] = {}
        self._woken = asyncio.Event()
        self._targets: Sequence[Target] = ()
        self.entry: Entry | None = None
        """Its place inside a gate, once there is one."""

    def join(self, targets: Sequence[Target]) -> None:
        """Queue before gates that are new, leave those that are gone."""
        self._targets = targets
        gates = {target.endpoint.gate: target for target in targets}
        for gate in [gate for gate in self._tickets if gate not in gates]:
            gate.queue.leave(self._tickets.pop(gate)[1])
        for gate, target in gates.items():
            if gate not in self._tickets and not gate.queue.is_full:
                ticket = gate.queue.push(
                    self,
                    tenant=self._terms.tenant,
                    weight=self._weight,
                    priority=self._terms.priority,
                )
                self._tickets[gate] = (target, ticket)
        for gate in list(self._tickets):
            gate.admit_waiting()

    def may_enter(self, gate: Gate) -> bool:
        """Tell whether the endpoint takes calls now, or is the last one that might."""
        held = self._tickets.get(gate)
        if held is None or self.entry is not None:
            return True  # its ticket is in the way: `admit` will refuse
        endpoint = held[0].endpoint
        if endpoint.takes_calls():
            return True
        if any(t.endpoint.takes_calls() for t in self._targets):
            return False
        last = _last_resort(self._targets, self._clock.monotonic())
        return last is not None and last.endpoint is endpoint

    def admit(self, gate: Gate) -> bool:
        """Take a place inside `gate`, unless one was found elsewhere."""
        if self.entry is not None or gate not in self._tickets:
            return False
        self.entry = Entry(self._tickets.pop(gate)[0].endpoint)
        self._woken.set()
        return True

    def take(self) -> Entry:
        """Return its place inside a gate; from now on the caller leaves it."""
        entry, self.entry = self.entry, None
        if entry is None:
            raise RuntimeError("no gate was entered")
        return entry

    async def wait(self, timeout_s: float) -> None:
        """Wait until a gate lets it in, an endpoint's rest is over, or for `timeout_s` seconds."""
        now_s = self._clock.monotonic()
        rests = [t.endpoint.resting_until_s - now_s for t in self._targets]
        timeout_s = min((rest for rest in (timeout_s, *rests) if rest > 0), default=timeout_s)
        timer = self._clock.call_later(timeout_s, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()

    def progress(self) -> Progress:
        """Return where it stands, at the gate that is expected to open first."""
        ready = [
            (target, ticket)
            for target, ticket in self._tickets.values()
            if target.endpoint.is_ready
        ]
        if not ready:
            best = min(self._targets, key=lambda t: _STATE_ORDER.index(t.endpoint.state))
            return Progress(best.endpoint.state, 0, _soonest_s(self._targets))
        places = [(t.endpoint.gate.queue.position(ticket), t) for t, ticket in ready]
        position, target = min(places, key=lambda place: place[0])
        wait_s = target.endpoint.gate.expected_wait_s(position)
        return Progress(EndpointState.READY, position, wait_s)

    def leave(self) -> None:
        """Give up all places; one inside a gate too, when nobody took it."""
        for gate, (_target, ticket) in self._tickets.items():
            gate.queue.leave(ticket)
        self._tickets.clear()
        if self.entry is not None:
            self.take().give_up()


_STATE_ORDER: Final = (
    EndpointState.READY,
    EndpointState.STARTING,
    EndpointState.QUEUED,
    EndpointState.COLD,
    EndpointState.DRAINING,
    EndpointState.DOWN,
)


def _wake(targets: Sequence[Target]) -> None:
    """Tell backends that a call waits for what is cold, where nothing is ready."""
    if any(target.endpoint.is_ready for target in targets):
        return
    for target in targets:
        if target.endpoint.state is EndpointState.COLD:
            target.endpoint.backend.wake(target.endpoint.id)
            return


def _last_resort(targets: Sequence[Target], now_s: float) -> Target | None:
    """Return the ready target whose breaker lets up first: the last one is never ejected."""
    ready = [t for t in targets if t.endpoint.is_ready and now_s >= t.endpoint.resting_until_s]
    return min(ready, key=lambda t: t.endpoint.breaker.opened_until_s, default=None)


def _longer_than(budget_s: float, targets: Sequence[Target]) -> bool:
    """Tell whether each target is known to take longer than that until it is ready."""
    waits = [t.report.expected_wait_s for t in targets]
    return all(wait is not None and wait > budget_s for wait in waits)


def _soonest_s(targets: Sequence[Target]) -> float | None:
    waits = [t.report.expected_wait_s for t in targets if t.report.expected_wait_s is not None]
    return min(waits, default=None)


def _wait_s(gate: Gate, position: int) -> float:
    wait_s = gate.expected_wait_s(position)
    return FULL_RETRY_AFTER_S if wait_s is None else max(wait_s, 0.1)
