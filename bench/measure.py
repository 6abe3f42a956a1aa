"""The measures: what load each one puts on a system, and which figures it yields.

A measure is asked once per round and system, and answers with a sample: metric to number.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bench.load import ClosedLoop, Load, OpenLoop, Streams, Work, health
from bench.processes import Running, core_busy_s, cpu_s, resident_mb
from bench.stats import percentile
from bench.systems import PROFILES, Builder, Ports

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

CONNECTIONS: Final = 32
PACED_STREAMS: Final = 50
BURST_STREAMS: Final = 8
CALL_RATE: Final = 50.0
HEALTH_RATE: Final = 20.0

SETTLE_S: Final = 1.0
"""Pause after a start before memory is read, in seconds."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often; all times in seconds."""

    rounds: int
    held_rounds: int
    warm_s: float
    window_s: float
    latency_s: float
    held_streams: int = 1000
    held_ramp_s: float = 5.0


FULL: Final = Effort(rounds=5, held_rounds=3, warm_s=0.5, window_s=2.0, latency_s=5.0)
QUICK: Final = Effort(rounds=2, held_rounds=1, warm_s=0.3, window_s=1.0, latency_s=2.0)


@dataclass(slots=True)
class Context:
    """What a measure may use."""

    core: int
    """Core of the systems under test; load and upstream have another."""
    effort: Effort
    folder: Path
    upstreams: Ports
    builders: Mapping[str, Builder]
    works: Mapping[str, Work]
    """Profile to work, with what to expect: `call` in one piece, the others streamed."""


@dataclass(slots=True)
class Sample:
    """What one measure found out about one system in one round."""

    numbers: dict[str, float] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Window:
    """What passed between two looks at a system."""

    wall_s: float
    cpu_s: float
    foreign_s: float
    """Time in which the system's core worked for somebody else."""
    calls: int
    events: int

    def numbers(self) -> dict[str, float]:
        return {
            "core_ratio": self.cpu_s / self.wall_s,
            "foreign_ratio": max(0.0, self.foreign_s / self.wall_s),
        }


async def watch(running: Running, load: Load, core: int, seconds: float) -> Window:
    """Let the load go on for `seconds` and see what that cost."""
    pids = running.pids() if running.system.name != "direct" else []
    tally = load.tally
    tally.forget_times()
    calls, events = tally.calls, tally.events
    busy_s, used_s, begin_s = core_busy_s(core), cpu_s(pids), time.perf_counter()
    await asyncio.sleep(seconds)
    used_s, wall_s = cpu_s(pids) - used_s, time.perf_counter() - begin_s
    return Window(
        wall_s=wall_s,
        cpu_s=used_s,
        foreign_s=core_busy_s(core) - busy_s - used_s,
        calls=tally.calls - calls,
        events=tally.events - events,
    )


async def measure_call(context: Context, running: Running) -> Sample:
    """CPU per call and calls per second: 32 connections, closed loop, not streamed."""
    port = running.system.ports["call"]
    load = ClosedLoop(port, context.works["call"], connections=CONNECTIONS)
    async with load:
        await asyncio.sleep(context.effort.warm_s)
        window = await watch(running, load, context.core, context.effort.window_s)
    numbers = window.numbers() | {"calls_per_s": window.calls / window.wall_s}
    if window.calls and running.system.name != "direct":
        numbers["cpu_us"] = 1e6 * window.cpu_s / window.calls
    return Sample(numbers, load.tally.errors)


async def _stream_cost(context: Context, running: Running, load: Load) -> Sample:
    async with load:
        await asyncio.sleep(context.effort.warm_s)
        window = await watch(running, load, context.core, context.effort.window_s)
    numbers = window.numbers() | {"events_per_s": window.events / window.wall_s}
    if window.events and running.system.name != "direct":
        numbers["event_us"] = 1e6 * window.cpu_s / window.events
    return Sample(numbers, load.tally.errors)


async def measure_paced(context: Context, running: Running) -> Sample:
    """CPU per event of 50 streams with one event per 10 ms each; no call begins in the window."""
    port, work = running.system.ports["paced"], context.works["paced"]
    load = Streams(port, work, connections=PACED_STREAMS, ramp_s=0.2)
    return await _stream_cost(context, running, load)


async def measure_burst(context: Context, running: Running) -> Sample:
    """CPU per event of 8 streams that come as fast as they can, one call after the other."""
    port, work = running.system.ports["burst"], context.works["burst"]
    load = ClosedLoop(port, work, connections=BURST_STREAMS)
    return await _stream_cost(context, running, load)


async def measure_latency(context: Context, running: Running) -> Sample:
    """Time of a whole answer at 50 calls a second, and what a call costs at that rate."""
    load = OpenLoop(running.system.ports["call"], context.works["call"], rate=CALL_RATE)
    async with load:
        await asyncio.sleep(context.effort.warm_s)
        window = await watch(running, load, context.core, context.effort.latency_s)
        times_s = list(load.tally.latencies_s)
    numbers = window.numbers() | {
        "p50_ms": 1e3 * percentile(times_s, 0.50),
        "p99_ms": 1e3 * percentile(times_s, 0.99),
    }
    if window.calls and running.system.name != "direct":
        numbers["cpu_us"] = 1e6 * window.cpu_s / window.calls
    return Sample(numbers, load.tally.errors)


async def measure_chunk(context: Context, running: Running) -> Sample:
    """Time from the request to the first event at 50 streamed calls a second."""
    load = OpenLoop(running.system.ports["chunk"], context.works["chunk"], rate=CALL_RATE)
    async with load:
        await asyncio.sleep(context.effort.warm_s)
        window = await watch(running, load, context.core, context.effort.latency_s)
        times_s = list(load.tally.first_chunks_s)
    numbers = window.numbers() | {
        "p50_ms": 1e3 * percentile(times_s, 0.50),
        "p99_ms": 1e3 * percentile(times_s, 0.99),
    }
    return Sample(numbers, load.tally.errors)


async def measure_held(context: Context, running: Running) -> Sample:
    """1,000 streams of one event a second: errors, lag of the loop, memory.

    The lag is seen from outside, as the time of `GET /health` 20 times a second, less the same
    without the streams; the load's own core is in it, so it is an upper bound.
    """
    effort, port = context.effort, running.system.ports["held"]
    idle = OpenLoop(port, health(), rate=HEALTH_RATE, ready=2)
    async with idle:
        await asyncio.sleep(effort.warm_s)
        idle.tally.forget_times()
        await asyncio.sleep(effort.latency_s)
        idle_s = percentile(idle.tally.latencies_s, 0.99)

    profile = PROFILES["held"]
    # The window ends two seconds before the first stream does.
    life_s = profile.token_count * profile.token_interval_ms / 1e3
    window_s = life_s - effort.held_ramp_s - 3.0
    streams = Streams(
        port, context.works["held"], connections=effort.held_streams, ramp_s=effort.held_ramp_s
    )
    probe = OpenLoop(port, health(), rate=HEALTH_RATE, ready=2)
    async with streams, probe:
        await asyncio.sleep(1.0)
        probe.tally.forget_times()
        window = await watch(running, streams, context.core, window_s)
        busy_s = percentile(probe.tally.latencies_s, 0.99)
        held = sum(1 for connection in streams.opened if connection.work)
        pids = running.pids() if running.system.name != "direct" else []
        resident = resident_mb(pids)
    wrong = streams.tally.errors + probe.tally.errors
    numbers = window.numbers() | {
        "streams": float(held),
        "events_per_s": window.events / window.wall_s,
        "health_idle_p99_ms": 1e3 * idle_s,
        "health_p99_ms": 1e3 * busy_s,
        "lag_p99_ms": max(0.0, 1e3 * (busy_s - idle_s)),
        "resident_mb": resident,
        "errors": float(wrong.total()),
    }
    return Sample(numbers, idle.tally.errors + wrong)


async def measure_start(context: Context, running: Running) -> Sample:
    """A fresh copy of the system: from the start to its first answer, and its memory then."""
    build = context.builders[running.system.name]
    fresh = Running(
        build(context.upstreams, context.folder), core=context.core, folder=context.folder
    )
    try:
        start_s = await fresh.wait_ready()
        await asyncio.sleep(SETTLE_S)
        numbers = {"start_s": start_s, "resident_mb": resident_mb(fresh.pids())}
    finally:
        fresh.stop()
    return Sample(numbers)


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure, and whom it makes sense for."""

    run: Callable[[Context, Running], Awaitable[Sample]]
    systems: tuple[str, ...]
    held: bool = False
    """Long, so it has fewer rounds."""


MEASURES: Final = {
    "call": Measure(measure_call, ("direct", "nginx", "serve", "apart")),
    "paced": Measure(measure_paced, ("direct", "nginx", "serve", "apart")),
    "burst": Measure(measure_burst, ("direct", "nginx", "serve", "apart")),
    "latency": Measure(measure_latency, ("direct", "nginx", "serve", "apart")),
    "chunk": Measure(measure_chunk, ("direct", "nginx", "serve", "apart")),
    "start": Measure(measure_start, ("nginx", "serve", "apart")),
    "held": Measure(measure_held, ("direct", "serve", "apart"), held=True),
}
