"""Which endpoints exist, in which state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeAlias

from first_core.domain.breaker import Breaker
from first_core.domain.learned import Learned
from first_core.types import EndpointId, EndpointState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from first_core.clock import Clock
    from first_core.domain.gate import Gate
    from first_core.plugin import Backend, EndpointReport, Publish
    from first_core.types import Timeouts

_READY: Final = EndpointState.READY

Tune: TypeAlias = "Callable[[EndpointId], tuple[Gate, Timeouts]]"
"""Returns the gate and the bounds of an endpoint, from the settings."""


class Endpoint:
    """One endpoint as it stands: what its backend says, and what its calls have shown."""

    __slots__ = (
        "_clock",
        "attempt_count",
        "backend",
        "backend_kind",
        "breaker",
        "create_time",
        "gate",
        "is_gone",
        "is_ready",
        "learned",
        "report",
        "resting_until_s",
        "state_time",
        "timeouts",
    )

    def __init__(
        self,
        report: EndpointReport,
        backend: Backend,
        backend_kind: str,
        *,
        clock: Clock,
        gate: Gate,
        timeouts: Timeouts,
    ) -> None:
        self._clock = clock
        self.report = report
        self.backend = backend
        self.attempt_count = 0
        """Attempts that run on it now; its backend is not stopped before they have ended."""
        self.backend_kind = backend_kind
        self.create_time = self.state_time = clock.time()
        self.breaker = Breaker(clock)
        self.learned = Learned()
        self.gate = gate
        self.timeouts = timeouts
        self.resting_until_s = 0.0
        """Monotonic time until which its upstream asked not to be called."""
        self.is_gone = False
        """Whether its backend no longer publishes it."""
        self.is_ready = report.state is _READY
        """Whether its backend says that it takes calls."""

    @property
    def id(self) -> EndpointId:
        """Its name."""
        return self.report.id

    @property
    def state(self) -> EndpointState:
        """Where it stands; down, once its backend knows it no longer."""
        return EndpointState.DOWN if self.is_gone else self.report.state

    def takes_calls(self) -> bool:
        """Whether a call may go there now: it is ready, not resting, and its breaker allows it."""
        if not self.is_ready or (self.breaker.is_open and not self.breaker.allows()):
            return False
        # The clock is read only for who was ever asked to rest.
        return not self.resting_until_s or self._clock.monotonic() >= self.resting_until_s

    def update(self, report: EndpointReport, now: float) -> None:
        """Take what its backend says now; whoever waits for it gets in when it is ready."""
        if report.state is not self.report.state:
            self.state_time = now
        # The same figures once more are no new look at the engine.
        load = None if report.load is self.report.load else report.load
        self.report = report
        self.is_ready = report.state is _READY
        if load is not None:
            self.gate.bound.told(load, self.gate.in_flight_count)
        if self.is_ready and self.gate.queue.waiting_count:
            self.gate.admit_waiting()

    def depart(self) -> None:
        """Take note that its backend no longer publishes it; calls in flight go on."""
        self.is_gone, self.is_ready = True, False


class Catalog:
    """What all backends published last. Reads are of memory only and never wait.

    Args:
        clock: The time.
        tune: Gives each new endpoint its gate and its bounds.
    """

    def __init__(self, clock: Clock, tune: Tune) -> None:
        self._clock = clock
        self._tune = tune
        self._by_backend: dict[str, dict[EndpointId, Endpoint]] = {}
        self._publishers: dict[str, Backend] = {}
        self._by_model: dict[str, tuple[Endpoint, ...]] = {}
        self._sorted: list[Endpoint] | None = None
        self._changed = asyncio.Event()
        self.version = 0
        """Grows whenever an endpoint comes or goes; a state that changes leaves it."""

    def publisher(self, kind: str, backend: Backend) -> Publish:
        """Return what a backend calls with all its endpoints as they stand now."""
        self._by_backend.setdefault(kind, {})
        self._publishers[kind] = backend

        def publish(reports: Sequence[EndpointReport]) -> None:
            self._publish(kind, backend, reports)

        return publish

    def _publish(self, kind: str, backend: Backend, reports: Sequence[EndpointReport]) -> None:
        if self._publishers.get(kind) is not backend:
            return  # it was withdrawn or replaced, and did not know yet
        known = self._by_backend[kind]
        now = self._clock.time()
        found: dict[EndpointId, Endpoint] = {}
        changed = False
        for report in reports:
            endpoint = known.get(report.id)
            if endpoint is None or endpoint.backend is not backend:
                found[report.id] = self._new(kind, backend, report)
            else:
                found[report.id] = endpoint
                if report is not endpoint.report:
                    changed = changed or report != endpoint.report
                    endpoint.update(report, now)
        came_or_went = list(known.values()) != list(found.values())
        if came_or_went:
            for endpoint in set(known.values()).difference(found.values()):
                endpoint.depart()
            self._by_backend[kind] = found
            self._index()
        if changed or came_or_went:
            self._tell()

    def _new(self, kind: str, backend: Backend, report: EndpointReport) -> Endpoint:
        gate, timeouts = self._tune(report.id)
        return Endpoint(report, backend, kind, clock=self._clock, gate=gate, timeouts=timeouts)

    def withdraw(self, kind: str) -> None:
        """Forget a backend and its endpoints. Calls in flight keep what they have."""
        self._publishers.pop(kind, None)
        for endpoint in self._by_backend.pop(kind, {}).values():
            endpoint.depart()
        self._index()
        self._tell()

    def retune(self, tune: Tune) -> None:
        """Give each endpoint its gate's bound and its bounds in time anew, from new settings."""
        self._tune = tune
        for endpoint in self.endpoints():
            gate, endpoint.timeouts = tune(endpoint.id)
            endpoint.gate.retune(gate)

    def _index(self) -> None:
        by_model: dict[str, list[Endpoint]] = {}
        for endpoints in self._by_backend.values():
            for endpoint in endpoints.values():
                by_model.setdefault(endpoint.id.model, []).append(endpoint)
        self._by_model = {model: tuple(found) for model, found in by_model.items()}
        self._sorted = None
        self.version += 1

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def endpoints_of(self, model: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of a model in configured order; empty when it is not known."""
        return self._by_model.get(model, ())

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints, sorted by name."""
        if self._sorted is None:
            found = [e for of_model in self._by_model.values() for e in of_model]
            self._sorted = sorted(found, key=lambda endpoint: endpoint.id)
        return list(self._sorted)

    def idle_backends(self) -> list[str]:
        """Return the kinds of backends that know no endpoint now, sorted."""
        return sorted(kind for kind, found in self._by_backend.items() if not found)

    def model_names(self) -> list[str]:
        """Return what endpoints call their models, sorted."""
        return sorted(self._by_model)

    def now_s(self) -> float:
        """Return the monotonic time of its clock."""
        return self._clock.monotonic()

    def next_change(self) -> asyncio.Event:
        """Return an event that is set when something is published from now on."""
        return self._changed
