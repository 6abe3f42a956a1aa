"""`failover`: what a call pays when its first endpoint fails, and when that one is used again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bench import fleet
from bench.caller import Caller, Reply
from bench.load import Work, chat, learn
from bench.measure import Sample
from bench.outage import outage
from bench.pairs import KINDS, Kind, Pair
from bench.processes import NotReadyError, Others
from bench.scenarios import Cast, Scenario, Stage
from bench.sheets import Sheet, SheetRow
from bench.stats import percentile

if TYPE_CHECKING:
    from bench.processes import Running

FIRST_CHUNK_S: Final = 0.25
"""`timeouts.first_chunk_s` before endpoints that stall."""

QUICK_PROBE_S: Final = 0.1
"""`probe_interval_s` of the pairs whose calls are timed, so that a server that refused connections
for one call is known to be back soon. The outages have the default."""

CALM_CALLS: Final = 2
"""Calls to a healthy first endpoint after each that failed over: fewer would open its breaker,
which opens where half of the calls fail."""

READY_TIMEOUT_S: Final = 20.0

OUTAGES_S: Final = (3.0, 1.0, 8.0)
"""Length of the outage in each round, in turn."""


@dataclass(slots=True)
class Times:
    """Seconds of calls in one piece, by what their first endpoint did."""

    healthy_s: list[float] = field(default_factory=list)
    rescued_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def numbers(self) -> dict[str, float]:
        """Figures of one fault; what is added is the difference of the percentiles."""
        found = {"samples": float(len(self.rescued_s))}
        for name, ratio in (("p50", 0.50), ("p99", 0.99)):
            healthy_s = percentile(self.healthy_s, ratio)
            rescued_s = percentile(self.rescued_s, ratio)
            found[f"{name}_ms"] = 1e3 * rescued_s
            found[f"healthy_{name}_ms"] = 1e3 * healthy_s
            found[f"added_{name}_ms"] = 1e3 * (rescued_s - healthy_s)
        return found


async def measure_failover(stage: Stage) -> dict[str, Sample]:
    """Faults one call at a time, kind after kind; then one outage of each kind, all at once."""
    with Cast(stage) as cast:
        async with AsyncExitStack() as stack:
            timed = {k.name: await stack.enter_async_context(Pair(k, "call")) for k in KINDS}
            broken = {k.name: await stack.enter_async_context(Pair(k, "outage")) for k in KINDS}
            system = fleet.gateway(
                *(stage.first, stage.folder, "failover"),
                _servers(timed, broken),
                _settings(),
            )
            gateway = cast.start(system, stage.core)
            port = system.ports["http"]
            works = {
                pair.model: await learn(pair.primary.port, chat(pair.model, stream=False))
                for pair in (*timed.values(), *broken.values())
            }
            for pair in (*timed.values(), *broken.values()):
                await _wait_primary(gateway, Caller(port, works[pair.model]), pair)
            others = Others(stage.core, gateway.pids())
            samples: dict[str, Sample] = {}
            for name, pair in timed.items():
                times = await _timed(pair, port, works[pair.model], quick=stage.quick)
                samples[name] = Sample(times.numbers(), times.errors)
            for name, sample in (await _outages(stage, broken, port, works)).items():
                samples[name].numbers |= sample.numbers
                samples[name].errors += sample.errors
            for sample in samples.values():
                sample.numbers["foreign_ratio"] = others.ratio()
    return samples


def _servers(*groups: dict[str, Pair]) -> list[dict[str, object]]:
    """Each model's first server first: the default policy takes it while both are idle."""
    timed, broken = groups
    return [
        fleet.server(simulator.port, f"{cluster}-{pair.model}", **extra)
        for pairs, extra in ((timed, {"probe_interval_s": QUICK_PROBE_S}), (broken, {}))
        for pair in pairs.values()
        for cluster, simulator in (("first", pair.primary), ("second", pair.second))
    ]


def _settings() -> dict[str, Any]:
    return {
        "timeouts": {"first_chunk_s": FIRST_CHUNK_S},
        # Each third call here fails over, far above what the default lets through in earnest.
        "resilience": {"retry_ratio": 1.0},
    }


async def _wait_primary(gateway: Running, caller: Caller, pair: Pair) -> None:
    """Until calls go to the first endpoint, and the second one is known as well."""
    end_s = time.perf_counter() + READY_TIMEOUT_S
    said = "nothing"
    while time.perf_counter() < end_s:
        try:
            reply = await caller.call()
            said = f"{reply.fault or 'right answer'} from {reply.endpoint!r}"
            if not reply.fault and pair.is_primary(reply):
                caller.close()
                return
        except OSError as exc:
            said = repr(exc)
        await asyncio.sleep(0.05)
    log = gateway.log.read_text(errors="replace").splitlines()[-15:]
    raise NotReadyError("\n".join([f"failover, {pair.model}: {said}", *log]))


async def _timed(pair: Pair, port: int, work: Work, *, quick: bool) -> Times:
    caller, times = Caller(port, work), Times()
    for _ in range(pair.kind.quick_count if quick else pair.kind.full_count):
        await pair.fail()
        try:
            sort(pair, await caller.call(), times)
        finally:
            await pair.recover()
        calm_count, end_s = 0, time.perf_counter() + READY_TIMEOUT_S
        while calm_count < CALM_CALLS and time.perf_counter() < end_s:
            reply = await caller.call()
            sort(pair, reply, times)
            calm_count += pair.is_primary(reply)
            if not pair.is_primary(reply):
                await asyncio.sleep(0.02)
    caller.close()
    return times


def sort(pair: Pair, reply: Reply, times: Times) -> None:
    """Put a call where it belongs; one that went to the second at once says nothing of either."""
    if reply.fault:
        times.errors[reply.fault] += 1
    elif pair.is_primary(reply) and reply.attempt_count == 1:
        times.healthy_s.append(reply.took_s)
    elif reply.attempt_count > 1:
        times.rescued_s.append(reply.took_s)


async def _outages(
    stage: Stage, pairs: dict[str, Pair], port: int, works: dict[str, Work]
) -> dict[str, Sample]:
    length_s = OUTAGES_S[stage.turn % len(OUTAGES_S)]
    found = await asyncio.gather(
        *(outage(pair, port, works[pair.model], length_s) for pair in pairs.values())
    )
    return dict(zip(pairs, found, strict=True))


FAILOVER: Final = Scenario(
    measure_failover,
    (
        Sheet(
            "Failover",
            "failover",
            {kind.name: kind.title for kind in KINDS},
            (
                SheetRow("calls that failed over", "samples", ""),
                SheetRow("call with a healthy first endpoint, p50", "healthy_p50_ms", "ms"),
                SheetRow("the same, p99", "healthy_p99_ms", "ms"),
                SheetRow("call whose first endpoint fails, p50", "p50_ms", "ms"),
                SheetRow("the same, p99", "p99_ms", "ms"),
                SheetRow("time added, p50", "added_p50_ms", "ms"),
                SheetRow("time added, p99", "added_p99_ms", "ms"),
                SheetRow("length of the outage", "outage_s", "s"),
                SheetRow("calls that clients saw fail meanwhile", "failed", ""),
                SheetRow("from its end to the first answer of that endpoint", "back_s", "s"),
            ),
        ),
    ),
)

__all__ = ["FAILOVER", "Kind", "Times"]
