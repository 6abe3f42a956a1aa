"""What routing costs in process: a policy's choice, a whole decision, a publish, the loop's lag.

    python -m bench.micro_routing

Run it on an idle machine; it needs no network. No part of the bench itself, since it compares
nothing: it shows whether the budgets that `RoutingPolicy` and the catalog promise are kept.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from dataclasses import replace
from statistics import median, quantiles
from typing import TYPE_CHECKING

from first_core.clock import SystemClock
from first_core.domain.admission import Admission
from first_core.domain.catalog import Catalog
from first_core.domain.config import tune_for
from first_core.domain.routes import Routes
from first_core.plugin.policy import RouteRequest
from first_core.plugin.registers import PolicyRegister
from first_core.policies.plugin import first_register_policies
from first_core.settings import CoreSettings, RoutingSettings
from first_core.testing.scripted import ScriptedBackend, ready
from first_core.types import EndpointId, EndpointLoad, Operation

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.plugin import EndpointReport

CHOICE_BUDGETS_US = {8: 20.0, 200: 100.0}
PUBLISH_BUDGET_MS = 5.0
LAG_BUDGET_MS = 20.0


def fleet(cluster_count: int, of_each: int, model: str = "") -> list[EndpointReport]:
    return [
        replace(
            ready(),
            id=EndpointId(f"c{c}", "vllm", model or f"org/m{i}", "" if not model else str(i)),
            load=EndpointLoad(3, 0, 0.2),
        )
        for c in range(cluster_count)
        for i in range(of_each)
    ]


def copy_of(reports: list[EndpointReport]) -> list[EndpointReport]:
    """As a backend would report after another look: equal, but new."""
    return [replace(r, id=replace(r.id), load=EndpointLoad(3, 0, 0.2)) for r in reports]


def timed_us(run: Callable[[], object], count: int) -> float:
    """Median of five rounds, each the mean of `count` runs."""
    rounds = []
    for _ in range(5):
        begin = time.perf_counter()
        for _ in range(count):
            run()
        rounds.append((time.perf_counter() - begin) / count * 1e6)
    return median(rounds)


def policies() -> PolicyRegister:
    register = PolicyRegister("policy")
    first_register_policies(register)
    return register


def choices() -> bool:
    """Time each policy's choice, and with it the search for those with room."""
    kept = True
    clock, settings = SystemClock(), CoreSettings()
    print(f"{'policy':<14}{'candidates':>10}{'choice, us':>12}{'decision, us':>14}{'budget':>8}")
    for name, count in itertools.product(policies().offers(), CHOICE_BUDGETS_US):
        catalog = Catalog(clock, tune_for(settings, clock))
        catalog.publisher("x", ScriptedBackend())(fleet(count // 4, 4, "m"))
        routes = Routes(RoutingSettings(policy=name), policies().offers(), catalog)
        route, admission = routes.resolve("m"), Admission(clock, settings.admission)
        assert route is not None  # noqa: S101 - it was just published
        request = RouteRequest(Operation.CHAT, "m", b"key")
        choice = timed_us(lambda r=route, q=request: r.policy.choose(q, r.targets), 4000 // count)

        def decide(routes: Routes = routes, admission: Admission = admission) -> None:
            found = routes.resolve("m")
            entry = found and admission.try_enter(found.policy, request, found.targets)  # noqa: B023
            if entry:
                entry.give_up()

        decision = timed_us(decide, 4000 // count)
        budget = CHOICE_BUDGETS_US[count]
        kept = kept and choice <= budget
        print(f"{name:<14}{count:>10}{choice:>12.1f}{decision:>14.1f}{budget:>8.0f}")
    return kept


def publishes() -> bool:
    """Time publishes of 2,000 reports by one backend, and the lag with 50 backends of 40."""
    clock = SystemClock()
    catalog = Catalog(clock, tune_for(CoreSettings(), clock))
    reports = fleet(50, 40)
    publish = catalog.publisher("x", ScriptedBackend())
    publish(reports)
    others = itertools.cycle([copy_of(reports) for _ in range(8)])
    same_ms = timed_us(lambda: publish(reports), 10) / 1000
    equal_ms = timed_us(lambda: publish(next(others)), 10) / 1000
    list_ms = timed_us(catalog.endpoints, 10) / 1000
    print(f"publish 2,000: same objects {same_ms:.2f} ms, new objects {equal_ms:.2f} ms")
    print(f"list 2,000: {list_ms:.2f} ms")
    lag_ms = asyncio.run(_lag_ms(5.0)) * 1000
    print(f"loop lag, 50 publishes of 40 a second for 5 s, p99: {lag_ms:.2f} ms")
    return max(same_ms, equal_ms) <= PUBLISH_BUDGET_MS and lag_ms <= LAG_BUDGET_MS


async def _lag_ms(duration_s: float) -> float:
    clock = SystemClock()
    catalog = Catalog(clock, tune_for(CoreSettings(), clock))

    async def refresh(cluster: int) -> None:
        publish = catalog.publisher(f"b{cluster}", ScriptedBackend())
        reports = [r for r in fleet(50, 40) if r.id.cluster == f"c{cluster}"]
        await asyncio.sleep(cluster / 50)
        while True:
            publish(copy_of(reports))
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(refresh(cluster)) for cluster in range(50)]
    lags, end = [], time.perf_counter() + duration_s
    while (begin := time.perf_counter()) < end:
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - begin - 0.001)
    for task in tasks:
        task.cancel()
    return quantiles(lags, n=100)[-1]


if __name__ == "__main__":
    outcomes = [choices(), publishes()]
    sys.exit(0 if all(outcomes) else 1)
