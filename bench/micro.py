"""`micro`: what single steps of the router cost, in this process, without any network."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from typing import TYPE_CHECKING, Final

from bench.inside import build, report
from bench.lag import lag_samples
from bench.measure import Sample
from bench.processes import Others
from bench.scenarios import Scenario, Stage
from bench.sheets import Bound, Sheet, SheetRow
from first_core.domain.fair_queue import FairQueue
from first_core.plugin.policy import RouteRequest
from first_core.settings import ModelSettings, RoutingSettings, TargetSettings
from first_core.types import Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.app import Router
    from first_core.domain.routes import Route
    from first_core.plugin import EndpointReport

POLICIES: Final = ("first", "least_loaded", "weighted", "round_robin", "latency", "affinity")
CANDIDATES: Final = {8: 20.0, 200: 100.0}
"""Candidates to the most µs that a decision may take. Source: `RoutingPolicy`."""

WAITING: Final = (10, 1_000, 100_000)
TENANTS: Final = 50

CLUSTERS: Final = 50
MODELS: Final = 40
"""On each cluster: 2,000 endpoints."""

BATCHES: Final = 40


def batch_us(run: Callable[[], int]) -> float:
    """Median over batches; `run` does one batch and returns of how many steps. After one unseen."""
    run()
    times_us = []
    for _ in range(BATCHES):
        begin_ns = time.perf_counter_ns()
        count = run()
        times_us.append((time.perf_counter_ns() - begin_ns) / 1e3 / count)
    return statistics.median(times_us)


async def measure_micro(stage: Stage) -> dict[str, Sample]:
    """Policies, queue, catalog, lag: one after the other."""
    samples: dict[str, Sample] = {}
    others = Others(stage.load_core, [os.getpid()])
    router = await _router_of_policies()
    for policy in POLICIES:
        samples[policy] = Sample(_policy(router, policy))
    await router.stop()
    for count in WAITING:
        samples[str(count)] = Sample({"queue_us": _queue(count)})
    samples["catalog"] = Sample(await _catalog())
    samples |= await lag_samples(_endpoints(0), _endpoints(1), _models(), quick=stage.quick)
    samples["catalog"].numbers["foreign_ratio"] = others.ratio()
    return samples


async def _router_of_policies() -> Router:
    reports = [
        report(f"cluster-{index}", f"model-{count}", running_count=index % 7)
        for count in CANDIDATES
        for index in range(count)
    ]
    models = [
        ModelSettings(
            name=f"{policy}-{count}",
            policy=policy,
            targets=[TargetSettings(model=f"model-{count}")],
        )
        for policy in POLICIES
        for count in CANDIDATES
    ]
    router, _publish = await build(reports, RoutingSettings(models=models))
    for count in CANDIDATES:
        for index, endpoint in enumerate(router.catalog.endpoints_of(f"model-{count}")):
            endpoint.learned.add(0.01 * (1 + index % 5))
            for _ in range(index % 3):
                endpoint.gate.enter()
    return router


def _policy(router: Router, policy: str) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for count in CANDIDATES:
        route = router.routes.resolve(f"{policy}-{count}")
        assert route is not None  # noqa: S101 - it is among the models
        numbers[f"decision_{count}_us"] = batch_us(_decisions(router, route))
        numbers[f"choose_{count}_us"] = batch_us(_choices(route))
    return numbers


def _requests(route: Route) -> list[RouteRequest]:
    """Calls of 20 sessions: what `affinity` tells apart."""
    return [
        RouteRequest(Operation.CHAT, route.model, index.to_bytes(16, "big")) for index in range(20)
    ]


def _decisions(router: Router, route: Route) -> Callable[[], int]:
    admission, requests = router.relay.config.admission, _requests(route)

    def run() -> int:
        for request in requests:
            target = admission.try_enter(route.policy, request, route.targets)
            assert target is not None  # noqa: S101 - all have room
            target.endpoint.gate.leave()
        return len(requests)

    return run


def _choices(route: Route) -> Callable[[], int]:
    requests = _requests(route)

    def run() -> int:
        for request in requests:
            route.policy.choose(request, route.targets)
        return len(requests)

    return run


def _queue(count: int) -> float:
    queue: FairQueue[int] = FairQueue(count + 1)
    tenants = itertools.cycle([f"tenant-{index}" for index in range(TENANTS)])
    for index in range(count):
        queue.push(index, tenant=next(tenants))

    def run() -> int:
        for _ in range(200):
            queue.push(0, tenant=next(tenants))
            queue.pop()
        return 200

    return batch_us(run)


def _models() -> list[str]:
    return [f"model-{index}" for index in range(MODELS)]


def _endpoints(shift: int) -> list[EndpointReport]:
    """The whole catalog; another `shift` gives each endpoint another load."""
    return [
        report(f"cluster-{cluster}", model, running_count=cluster % 7 + shift)
        for model in _models()
        for cluster in range(CLUSTERS)
    ]


async def _catalog() -> dict[str, float]:
    """Publishing 2,000 endpoints, in ms."""
    same, other = _endpoints(0), _endpoints(1)
    renewed = [
        report("cluster-new", f"new-{index}", running_count=1) if index % 100 == 0 else one
        for index, one in enumerate(_endpoints(1))
    ]
    first_ms = []
    for _ in range(5):
        router, publish = await build([], RoutingSettings())
        begin_s = time.perf_counter()
        publish(same)
        first_ms.append(1e3 * (time.perf_counter() - begin_s))
        await router.stop()

    def publishing(*turns: list[EndpointReport]) -> Callable[[], int]:
        def run() -> int:
            for reports in turns:
                publish(reports)
            return len(turns)

        return run

    return {
        "first_ms": statistics.median(first_ms),
        # Equal but made anew, as a backend makes them at each look.
        "same_ms": batch_us(publishing(same, _endpoints(0))) / 1e3,
        "load_ms": batch_us(publishing(other, same)) / 1e3,
        "renewed_ms": batch_us(publishing(renewed, other)) / 1e3,
    }


def _policy_rows() -> tuple[SheetRow, ...]:
    return (
        *(
            SheetRow(
                f"decision: who may, who has room, which one; {count} candidates",
                *(f"decision_{count}_us", "µs"),
                Bound(bound),
            )
            for count, bound in CANDIDATES.items()
        ),
        *(
            SheetRow(
                f"the policy's part of it; {count} candidates",
                *(f"choose_{count}_us", "µs"),
                Bound(bound),
            )
            for count, bound in CANDIDATES.items()
        ),
    )


MICRO: Final = Scenario(
    measure_micro,
    (
        Sheet("Routing decision", "micro", {name: name for name in POLICIES}, _policy_rows()),
        Sheet(
            "Queue",
            "micro",
            {str(count): f"{count:,} waiting" for count in WAITING},
            (SheetRow("one push and one pop, 50 tenants", "queue_us", "µs"),),
        ),
        Sheet(
            "Catalog",
            "micro",
            {"catalog": "2,000 endpoints on 50 clusters"},
            (
                SheetRow("published for the first time", "first_ms", "ms"),
                SheetRow("published again, nothing changed", "same_ms", "ms"),
                SheetRow("published again, each load changed", "load_ms", "ms"),
                SheetRow("published again, 1 % came and 1 % went", "renewed_ms", "ms"),
            ),
        ),
        Sheet(
            "Loop lag with 2,000 endpoints",
            "micro",
            {"calm": "catalog at rest", "refreshed": "published anew each second"},
            (
                SheetRow("calls per second meanwhile", "calls_per_s", "1/s"),
                SheetRow("lag p99", "lag_p99_ms", "ms", Bound(20.0, columns=("refreshed",))),
                SheetRow("longest lag", "lag_max_ms", "ms"),
            ),
        ),
    ),
)
