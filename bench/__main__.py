"""Run the bench: `python -m bench`; `scripts/bench` sets up the environment first."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import gc
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import uvloop

from bench import machine, systems, table
from bench.load import Work, WrongAnswerError, chat, learn
from bench.measure import FULL, MEASURES, QUICK, Context, Effort, Sample
from bench.processes import NotReadyError, Running, raise_file_limit
from bench.report import report
from bench.scenarios import Stage
from bench.sheets import WHOLE
from bench.suite import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

T = TypeVar("T")

SAMPLE_TIMEOUT_S: Final = 90.0
"""Longest one measure of one system may take; the longest, 1,000 streams, takes about 35 s."""

SCENARIO_TIMEOUT_S: Final = 300.0
"""Longest round of one scenario; the longest, `saturation`, takes about 90 s."""

DESCRIPTION: Final = "What the gateway costs, beside nginx. See bench/README.md."

NO_NGINX: Final = """nginx is missing: the costs are compared to it.
Install it: apt-get install nginx
(its service is not needed and may be stopped), or go without that column: --no-nginx"""


class Bench:
    """One run: what was found so far."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self.results: dict[str, list[dict[str, dict[str, float]]]] = {}
        self.errors: dict[str, dict[str, Counter[str]]] = {}

    async def measure(self, name: str, context: Context, running: dict[str, Running]) -> None:
        """One measure of all systems, round by round."""
        measure = MEASURES[name]
        rounds = self.effort.held_rounds if measure.held else self.effort.rounds
        present = [system for system in measure.systems if system in running]
        self.results[name] = []
        self.errors[name] = {system: Counter() for system in present}
        for index in range(rounds):
            # Another one begins in each round, so that no one always follows the same.
            turn = index % len(present)
            found: dict[str, dict[str, float]] = {}
            for system in present[turn:] + present[:turn]:
                run = MEASURES[name].run(context, running[system])
                sample = _known(await _quiet(run, SAMPLE_TIMEOUT_S))
                self.errors[name][system] += sample.errors
                if sample.numbers:
                    found[system] = sample.numbers
                _progress(f"{name} {index + 1}/{rounds} {system}", sample)
            self.results[name].append(found)

    async def play(self, name: str, stage: Stage) -> None:
        """One scenario, round by round."""
        rounds = self.effort.held_rounds
        self.results[name] = []
        self.errors[name] = {}
        for index in range(rounds):
            run = SCENARIOS[name].run(dataclasses.replace(stage, turn=index))
            found = await _quiet(run, SCENARIO_TIMEOUT_S)
            samples = {WHOLE: found} if isinstance(found, Sample) else found
            for column, raw in samples.items():
                sample = _known(raw)
                self.errors[name].setdefault(column, Counter()).update(sample.errors)
                _progress(f"{name} {index + 1}/{rounds} {column}", sample)
            self.results[name].append({c: _known(s).numbers for c, s in samples.items()})


async def _quiet(run: Awaitable[T], timeout_s: float) -> T | Sample:
    """Run it without garbage collection; a failure is a sample with nothing but an error."""
    gc.collect()
    gc.disable()  # the load's own collections would show up as latency
    try:
        async with asyncio.timeout(timeout_s):
            return await run
    except (OSError, TimeoutError, NotReadyError) as exc:
        failure = f"{type(exc).__name__}: {exc}"
        return Sample(errors=Counter({failure: 1}))
    finally:
        gc.enable()


def _known(sample: Sample) -> Sample:
    """Nothing came back to take a percentile of: not a number in JSON either."""
    known = {metric: value for metric, value in sample.numbers.items() if not math.isnan(value)}
    return Sample(known, sample.errors)


def _progress(what: str, sample: Sample) -> None:
    figures = " ".join(f"{name}={table.number(value)}" for name, value in sample.numbers.items())
    wrong = f" ERRORS {dict(sample.errors.most_common(3))}" if sample.errors else ""
    print(f"{what}: {figures}{wrong}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds: about 5 min")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*MEASURES, *SCENARIOS],
        help="one measure; may be repeated",
    )
    parser.add_argument(
        "--system",
        action="append",
        choices=["nginx", "serve", "apart"],
        help="only this beside `direct`; may be repeated",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PATH",
        help="writes PATH.md and PATH.json, from the root of the repository",
    )
    parser.add_argument("--no-nginx", action="store_true", help="go without nginx")
    parser.add_argument("--rounds", type=int, help="rounds of each measure, 1 to 50")
    parser.add_argument("--first", metavar="FILE", help="measure another `first` command")
    parser.add_argument(
        "--cores", default="0,1", help="core of the systems, core of load and upstream (0,1)"
    )
    return parser.parse_args()


def _effort(arguments: argparse.Namespace) -> Effort:
    effort = QUICK if arguments.quick else FULL
    if arguments.rounds is None:
        return effort
    rounds = min(50, max(1, arguments.rounds))
    return dataclasses.replace(effort, rounds=rounds, held_rounds=rounds)


def _cores(text: str) -> tuple[int, int]:
    under_test, load = (int(part) for part in text.split(","))
    allowed = os.sched_getaffinity(0)
    if {under_test, load} <= allowed and under_test != load:
        return under_test, load
    print("fewer than two cores: systems and load disturb each other", file=sys.stderr)
    only = min(allowed)
    return only, only


async def _learn_all(ports: systems.Ports) -> dict[str, Work]:
    """What each profile answers, asked of the simulators themselves.

    The slow one is not asked but reckoned from the others: their events but the tokens.
    """
    works: dict[str, Work] = {}
    extra: set[int] = set()
    for name, profile in systems.PROFILES.items():
        work = chat(profile.model, stream=name != "call")
        if name != "held":
            works[name] = await learn(ports[name], work)
            if work.stream and (expected := works[name].expected) is not None:
                extra.add(expected.size - profile.token_count)
        elif len(extra) == 1:
            works[name] = work.expecting(profile.token_count + extra.pop(), slack=0)
        else:
            raise NotReadyError(f"simulators differ in the events around the tokens: {extra}")
    return works


async def _measure(arguments: argparse.Namespace, nginx: str | None) -> Bench:
    under_test, load_core = _cores(arguments.cores)
    os.sched_setaffinity(0, {load_core})
    bench = Bench(_effort(arguments))
    names = arguments.only or [*MEASURES, *SCENARIOS]
    first = systems.first_command(arguments.first)
    with tempfile.TemporaryDirectory(prefix="first-bench-") as path:
        folder = Path(path)
        quick = bool(arguments.quick)
        stage = Stage(under_test, load_core, folder, first, quick=quick, turn=0)
        costs = [name for name in names if name in MEASURES]
        if costs:
            builders = {
                name: build
                for name, build in systems.builders(first, nginx).items()
                if not arguments.system or name in arguments.system
            }
            await _costs(bench, costs, stage, builders)
        for scenario in [name for name in names if name in SCENARIOS]:
            await bench.play(scenario, stage)
    return bench


async def _costs(
    bench: Bench, names: Sequence[str], stage: Stage, builders: Mapping[str, systems.Builder]
) -> None:
    """The measures that compare systems, which are up together and stopped afterwards."""
    with ExitStack() as stack:

        async def start(system: systems.System, core: int) -> Running:
            running = Running(system, core=core, folder=stage.folder)
            stack.callback(running.stop)
            seconds = await running.wait_ready()
            print(f"{system.name}: up after {seconds:.2f} s", file=sys.stderr, flush=True)
            return running

        direct = await start(systems.upstream(stage.first), stage.load_core)
        running = {"direct": direct}
        works = await _learn_all(direct.system.ports)
        for name, build in builders.items():
            running[name] = await start(build(direct.system.ports, stage.folder), stage.core)
        context = Context(
            core=stage.core,
            effort=bench.effort,
            folder=stage.folder,
            upstreams=direct.system.ports,
            builders=builders,
            works=works,
        )
        for name in names:
            await bench.measure(name, context, running)


async def _interruptible(arguments: argparse.Namespace, nginx: str | None) -> Bench:
    """Ctrl-C and SIGTERM cancel the run, and cancelling stops every child."""
    task = asyncio.get_running_loop().create_task(_measure(arguments, nginx))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


def main() -> int:
    """Exit status: 0 done, 1 a must was missed, 2 it could not run, 130 interrupted."""
    arguments = _arguments()
    nginx = None if arguments.no_nginx else systems.nginx_command()
    compares = arguments.only is None or any(name in MEASURES for name in arguments.only)
    if nginx is None and compares and not arguments.no_nginx:
        print(NO_NGINX, file=sys.stderr)
        return 2
    raise_file_limit()
    begin_s = time.perf_counter()
    try:
        bench = uvloop.run(_interruptible(arguments, nginx))
    except asyncio.CancelledError:
        print("stopped", file=sys.stderr)
        return 130
    except (NotReadyError, WrongAnswerError, FileNotFoundError) as exc:
        print(exc, file=sys.stderr)
        return 2
    took_s = time.perf_counter() - begin_s
    facts = machine.describe(nginx)
    text, data = report(bench.results, bench.errors, facts, bench.effort, took_s)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_name(arguments.out.name + ".md").write_text(text)
        arguments.out.with_name(arguments.out.name + ".json").write_text(data)
    return 1 if "FAIL" in text else 0


if __name__ == "__main__":
    sys.exit(main())
