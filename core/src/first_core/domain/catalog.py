"""Which models exist, on which endpoints, in which state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from first_core.types import EndpointId, EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.clock import Clock
    from first_core.plugin import Backend, EndpointReport, Publish


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint, with the backend that reaches it."""

    report: EndpointReport
    backend: Backend
    backend_kind: str
    create_time: float
    """When it was first published, in seconds since the epoch."""
    state_time: float
    """When its state last changed, in seconds since the epoch."""

    @property
    def id(self) -> EndpointId:
        """Its name."""
        return self.report.id


@dataclass(frozen=True, slots=True)
class Model:
    """One model, summed up over its endpoints."""

    id: str
    create_time: float
    owner: str
    context_window_token_count: int
    operations: frozenset[Operation]
    state: EndpointState


_BEST_FIRST = (
    EndpointState.READY,
    EndpointState.STARTING,
    EndpointState.QUEUED,
    EndpointState.COLD,
    EndpointState.DRAINING,
    EndpointState.DOWN,
)


class Catalog:
    """What all backends published last. Reads are of memory only and never wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_backend: dict[str, dict[EndpointId, Endpoint]] = {}
        self._by_model: dict[str, tuple[Endpoint, ...]] = {}
        self._changed = asyncio.Event()

    def publisher(self, kind: str, backend: Backend) -> Publish:
        """Return what a backend calls with all its endpoints as they stand now."""
        self._by_backend.setdefault(kind, {})

        def publish(reports: Sequence[EndpointReport]) -> None:
            known = self._by_backend[kind]
            now = self._clock.time()
            self._by_backend[kind] = {
                report.id: _updated(known.get(report.id), report, backend, kind, now)
                for report in reports
            }
            self._index()

        return publish

    def _index(self) -> None:
        by_model: dict[str, list[Endpoint]] = {}
        for endpoints in self._by_backend.values():
            for endpoint in endpoints.values():
                by_model.setdefault(endpoint.id.model, []).append(endpoint)
        self._by_model = {model: tuple(found) for model, found in by_model.items()}
        self._changed.set()
        self._changed = asyncio.Event()

    def endpoints_of(self, model: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of a model in configured order; empty when it is not known."""
        return self._by_model.get(model, ())

    def endpoints(self) -> list[Endpoint]:
        """Return all endpoints, sorted by name."""
        found = [e for of_model in self._by_model.values() for e in of_model]
        return sorted(found, key=lambda endpoint: endpoint.id)

    def models(self, *, cluster: str = "", framework: str = "") -> list[Model]:
        """Return the models with an endpoint on that cluster and framework, sorted by id."""
        found = []
        for model in sorted(self._by_model):
            endpoints = [
                e
                for e in self._by_model[model]
                if cluster in ("", e.id.cluster) and framework in ("", e.id.framework)
            ]
            if endpoints:
                found.append(_sum_up(model, endpoints))
        return found

    def model(self, model: str) -> Model | None:
        """Return one model, if it is known."""
        endpoints = self._by_model.get(model)
        return _sum_up(model, endpoints) if endpoints else None

    def next_change(self) -> asyncio.Event:
        """Return an event that is set when something is published from now on."""
        return self._changed


def _updated(
    known: Endpoint | None, report: EndpointReport, backend: Backend, kind: str, now: float
) -> Endpoint:
    if known is None:
        return Endpoint(report, backend, kind, create_time=now, state_time=now)
    same = known.report.state == report.state
    return replace(known, report=report, state_time=known.state_time if same else now)


def _sum_up(model: str, endpoints: Sequence[Endpoint]) -> Model:
    reports = [endpoint.report for endpoint in endpoints]
    return Model(
        id=model,
        create_time=min(endpoint.create_time for endpoint in endpoints),
        owner=next((report.owner for report in reports if report.owner), ""),
        context_window_token_count=max(r.context_window_token_count for r in reports),
        operations=frozenset().union(*(report.operations for report in reports)),
        state=min((report.state for report in reports), key=_BEST_FIRST.index),
    )
