"""`scale`: whether n engines behind the gateway do n times the work of one."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from bench import fleet
from bench.fleet import CALL_S, ENGINE_SLOTS, SimulatedEngine
from bench.load import ClosedLoop, Work, chat, learn
from bench.measure import Sample, watch
from bench.scenarios import Cast, Scenario, Stage
from bench.sheets import Bound, Sheet, SheetRow

if TYPE_CHECKING:
    from bench.processes import Running
    from bench.systems import Ports

REPLICAS: Final = (1, 2, 4)

CLIENTS_PER_SLOT: Final = 2
"""More clients than slots: an engine that is ever idle was not fed in time."""

RAMP_S: Final = 2 * CALL_S
"""The first calls begin spread over this, so that the slots do not end in step."""


def _engine(count: int, index: int) -> str:
    return f"{count}-{index}"


def _wanted() -> dict[str, SimulatedEngine]:
    """Engines of their own for each count: an engine is in one group only."""
    return {
        _engine(count, index): SimulatedEngine(f"scale-{count}")
        for count in REPLICAS
        for index in range(count)
    }


async def measure_scale(stage: Stage) -> dict[str, Sample]:
    """All engines alone at once, then each group through the gateway."""
    warm_s, window_s = (1.5, 3.0) if stage.quick else (2.0, 8.0)
    with Cast(stage) as cast:
        wanted = _wanted()
        engines = cast.start(fleet.engines(stage.first, wanted), stage.load_core)
        ports = engines.system.ports
        for name, engine in wanted.items():
            await engines.wait_model(ports[name], engine.model)
        works = {
            count: await learn(ports[_engine(count, 0)], chat(f"scale-{count}", stream=False))
            for count in REPLICAS
        }
        alone = await _alone(ports, works, warm_s=warm_s, window_s=window_s)
        # Only now: a gateway that saw the engines full of others' calls would hold back its own.
        servers = [fleet.server(port, f"cluster-{name}") for name, port in ports.items()]
        system = fleet.gateway(stage.first, stage.folder, "scale", servers)
        gateway = cast.start(system, stage.core)
        for count in REPLICAS:
            await gateway.wait_model(system.ports["http"], f"scale-{count}")
        samples = {}
        for count in REPLICAS:
            sample = await _through(
                stage, gateway, works[count], count, warm_s=warm_s, window_s=window_s
            )
            direct = sum(alone[_engine(count, index)] for index in range(count))
            sample.numbers |= {
                "direct_per_s": direct,
                "share": sample.numbers["calls_per_s"] / direct,
            }
            samples[str(count)] = sample
    return samples


async def _alone(
    ports: Ports, works: dict[int, Work], *, warm_s: float, window_s: float
) -> dict[str, float]:
    """Calls a second of each engine, saturated, with nothing in between."""
    loads = {
        name: ClosedLoop(
            port,
            works[int(name.split("-")[0])],
            connections=CLIENTS_PER_SLOT * ENGINE_SLOTS,
            ramp_s=RAMP_S,
        )
        for name, port in ports.items()
    }
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(load) for load in loads.values()))
        await asyncio.sleep(warm_s)
        before = {name: load.tally.calls for name, load in loads.items()}
        begin_s = time.perf_counter()
        await asyncio.sleep(window_s)
        took_s = time.perf_counter() - begin_s
        return {name: (load.tally.calls - before[name]) / took_s for name, load in loads.items()}


async def _through(
    stage: Stage, gateway: Running, work: Work, count: int, *, warm_s: float, window_s: float
) -> Sample:
    connections = count * CLIENTS_PER_SLOT * ENGINE_SLOTS
    port = gateway.system.ports["http"]
    load = ClosedLoop(port, work, connections=connections, ramp_s=RAMP_S)
    async with load:
        await asyncio.sleep(warm_s)
        window = await watch(gateway, load, stage.core, window_s)
    numbers = window.numbers() | {"calls_per_s": window.calls / window.wall_s}
    return Sample(numbers, load.tally.errors)


SCALE: Final = Scenario(
    measure_scale,
    (
        Sheet(
            "Scaling with replicas",
            "scale",
            {str(count): f"{count} engine{'s' if count > 1 else ''}" for count in REPLICAS},
            (
                SheetRow("calls per second, the engines alone, sum", "direct_per_s", "1/s"),
                SheetRow("calls per second through the gateway", "calls_per_s", "1/s"),
                SheetRow(
                    "share of the sum that comes through",
                    *("share", "%"),
                    Bound(0.95, at_least=True),
                ),
                SheetRow("share of a core that the gateway used meanwhile", "core_ratio", "%"),
            ),
        ),
    ),
)
