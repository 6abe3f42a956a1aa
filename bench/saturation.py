"""`saturation`: what one engine still does when more is asked of it than it can do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench import fleet
from bench.fleet import CALL_S, ENGINE_SLOTS, SimulatedEngine
from bench.load import Arrivals, ClosedLoop, Load, Tally, Work, chat, learn
from bench.measure import Sample
from bench.scenarios import Cast, Scenario, Stage
from bench.sheets import Sheet, SheetRow
from bench.stats import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping

OFFERED: Final = (0.5, 0.8, 1.0, 1.5, 2.0)
"""Offered load as a share of the engine's capacity."""

WAIT_S: Final = 1.0
"""`admission.wait_s` of all gateways here: who would wait longer is refused."""

REFUSED: Final = frozenset({"status 429", "status 503"})

LET_GO_S: Final = 0.5
"""Pause after clients left, in which the gateways tell the engines so."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine with one gateway before it."""

    title: str
    max_in_flight: int | str | None
    sweet_spot: int | None = ENGINE_SLOTS


VARIANTS: Final = {
    "bounded": Variant(f"bound of {ENGINE_SLOTS}", ENGINE_SLOTS),
    "auto": Variant("auto (default)", "auto"),
    "unbounded": Variant("no bound", None),
    "steady": Variant("no bound, engine that keeps its pace", None, sweet_spot=None),
}


async def measure_saturation(stage: Stage) -> dict[str, Sample]:
    """All variants side by side, one load after the other; they share no engine."""
    warm_s, window_s = (2.0, 2.5) if stage.quick else (5.0, 10.0)
    with Cast(stage) as cast:
        wanted = {
            name: SimulatedEngine(f"saturation-{name}", variant.sweet_spot)
            for name, variant in VARIANTS.items()
        }
        engines = cast.start(fleet.engines(stage.first, wanted), stage.load_core)
        works: dict[str, Work] = {}
        for name, engine in wanted.items():
            port = engines.system.ports[name]
            await engines.wait_model(port, engine.model)
            works[name] = await learn(port, chat(engine.model, stream=False))
        capacity = await _capacity(engines.system.ports["steady"], works["steady"], window_s)
        ports: dict[str, int] = {}
        systems = {
            name: fleet.gateway(
                *(stage.first, stage.folder, name),
                [fleet.server(engines.system.ports[name], "bench")],
                _settings(variant),
            )
            for name, variant in VARIANTS.items()
        }
        gateways = {name: cast.start(system, stage.core) for name, system in systems.items()}
        for name, gateway in gateways.items():
            ports[name] = gateway.system.ports["http"]
            await gateway.wait_model(ports[name], wanted[name].model)
        samples = {name: Sample({"capacity_per_s": capacity}) for name in VARIANTS}
        for offered in OFFERED:
            loads = {
                name: Arrivals(ports[name], works[name], rate=offered * capacity)
                for name in VARIANTS
            }
            found = await _under(loads, warm_s=warm_s, window_s=window_s)
            for name, sample in found.items():
                samples[name].errors += sample.errors
                samples[name].numbers |= {
                    _metric(offered, metric): value for metric, value in sample.numbers.items()
                }
    return samples


def _settings(variant: Variant) -> dict[str, Any]:
    return {
        "endpoints": [{"max_in_flight": variant.max_in_flight}],
        "admission": {"wait_s": WAIT_S},
    }


async def _capacity(port: int, work: Work, window_s: float) -> float:
    """Calls a second of an engine whose slots are always full while none waits for long."""
    load = ClosedLoop(port, work, connections=ENGINE_SLOTS, ramp_s=CALL_S)
    async with load:
        await asyncio.sleep(2 * CALL_S)
        before, begin_s = load.tally.calls, time.perf_counter()
        await asyncio.sleep(window_s)
        return (load.tally.calls - before) / (time.perf_counter() - begin_s)


async def _under(loads: Mapping[str, Load], *, warm_s: float, window_s: float) -> dict[str, Sample]:
    """What each variant does in a window, `warm_s` after the load began."""
    async with AsyncExitStack() as stack:
        for load in loads.values():
            await stack.enter_async_context(load)
            stack.callback(load.give_up)
        await asyncio.sleep(warm_s)
        before: dict[str, tuple[int, Counter[str]]] = {}
        for name, load in loads.items():
            load.tally.forget_times()
            before[name] = load.tally.calls, Counter(load.tally.errors)
        begin_s = time.perf_counter()
        await asyncio.sleep(window_s)
        took_s = time.perf_counter() - begin_s
        found = {
            name: judge(load.tally, *before[name], load.ages_s(), took_s)
            for name, load in loads.items()
        }
    await asyncio.sleep(LET_GO_S)
    return found


def judge(
    tally: Tally, calls: int, errors: Counter[str], ages_s: list[float], took_s: float
) -> Sample:
    """Figures of a window. Refusals are answers of a kind, other errors are errors.

    A call that has no answer yet counts among the latencies with the time that it has waited:
    left out, the slowest calls would be the ones that nobody sees.
    """
    answered = tally.calls - calls
    new = tally.errors - errors
    refused = sum(count for kind, count in new.items() if kind in REFUSED)
    times_s = tally.latencies_s + ages_s
    numbers = {
        "calls_per_s": answered / took_s,
        "p50_ms": 1e3 * percentile(times_s, 0.50),
        "p99_ms": 1e3 * percentile(times_s, 0.99),
    }
    if answered + refused:
        numbers["refused"] = refused / (answered + refused)
    wrong = {kind: count for kind, count in new.items() if kind not in REFUSED}
    return Sample(numbers, Counter(wrong))


def _metric(offered: float, metric: str) -> str:
    return f"{metric}@{offered:g}"


def _rows() -> tuple[SheetRow, ...]:
    figures = (
        ("calls answered per second", "calls_per_s", "1/s"),
        ("latency p50", "p50_ms", "ms"),
        ("latency p99", "p99_ms", "ms"),
        ("share refused", "refused", "%"),
    )
    return (
        SheetRow("capacity of one engine, measured directly", "capacity_per_s", "1/s"),
        *(
            SheetRow(f"{offered:g} x capacity: {title}", _metric(offered, metric), unit)
            for title, metric, unit in figures
            for offered in OFFERED
        ),
    )


SATURATION: Final = Scenario(
    measure_saturation,
    (
        Sheet(
            "Saturation of one engine",
            "saturation",
            {name: variant.title for name, variant in VARIANTS.items()},
            _rows(),
        ),
    ),
)
