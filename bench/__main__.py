"""Run the bench: `python -m bench`; `scripts/bench` sets up the environment first."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import datetime as dt
import gc
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from bench import machine, systems, table
from bench.load import Work, WrongAnswerError, chat, learn
from bench.measure import FULL, MEASURES, QUICK, Context, Effort, Sample
from bench.processes import NotReadyError, Running, raise_file_limit
from bench.stats import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

SAMPLE_TIMEOUT_S: Final = 90.0
"""Longest one measure of one system may take; the longest, 1,000 streams, takes about 35 s."""

DESCRIPTION: Final = "What the gateway costs, beside nginx. See bench/README.md."

NO_NGINX: Final = """nginx is missing: the costs are compared to it.
Install it: apt-get install nginx
(its service is not needed and may be stopped), or go without that column: --no-nginx"""


class Bench:
    """One run: the systems that are up, and what was found so far."""

    def __init__(self, context: Context, running: dict[str, Running], only: Sequence[str]) -> None:
        self.context = context
        self.running = running
        self.only = only
        self.results: dict[str, list[dict[str, dict[str, float]]]] = {}
        self.errors: dict[str, dict[str, Counter[str]]] = {}

    async def run(self) -> None:
        for name in self.only:
            measure = MEASURES[name]
            effort = self.context.effort
            rounds = effort.held_rounds if measure.held else effort.rounds
            present = [system for system in measure.systems if system in self.running]
            self.results[name] = []
            self.errors[name] = {system: Counter() for system in present}
            for index in range(rounds):
                # Another one begins in each round, so that no one always follows the same.
                turn = index % len(present)
                found: dict[str, dict[str, float]] = {}
                for system in present[turn:] + present[:turn]:
                    sample = await self._sample(name, system)
                    self.errors[name][system] += sample.errors
                    if sample.numbers:
                        found[system] = sample.numbers
                    _progress(f"{name} {index + 1}/{rounds} {system}", sample)
                self.results[name].append(found)

    async def _sample(self, name: str, system: str) -> Sample:
        gc.collect()
        gc.disable()  # the load's own collections would show up as latency
        try:
            async with asyncio.timeout(SAMPLE_TIMEOUT_S):
                sample = await MEASURES[name].run(self.context, self.running[system])
        except (OSError, TimeoutError, NotReadyError) as exc:
            failure = f"{type(exc).__name__}: {exc}"
            return Sample(errors=Counter({failure: 1}))
        finally:
            gc.enable()
        # Nothing came back to take a percentile of: not a number in JSON either.
        known = {metric: value for metric, value in sample.numbers.items() if not math.isnan(value)}
        return Sample(known, sample.errors)

    def error_counts(self) -> dict[str, dict[str, int]]:
        return {
            measure: {system: kinds.total() for system, kinds in found.items()}
            for measure, found in self.errors.items()
        }


def _progress(what: str, sample: Sample) -> None:
    figures = " ".join(f"{name}={table.number(value)}" for name, value in sample.numbers.items())
    wrong = f" ERRORS {dict(sample.errors.most_common(3))}" if sample.errors else ""
    print(f"{what}: {figures}{wrong}", file=sys.stderr, flush=True)


def _foreign(bench: Bench) -> str:
    """How quiet the machine was, as one sentence."""
    shares = [
        numbers["foreign_ratio"]
        for rounds in bench.results.values()
        for round_ in rounds
        for numbers in round_.values()
        if "foreign_ratio" in numbers
    ]
    found = spread(shares)
    if found is None:
        return ""
    loud = " **Not a quiet machine: take no figure from this.**" if found.median > 0.1 else ""
    return (
        f"Core of the systems used by others meanwhile: median {100 * found.median:.0f} %, "
        f"at most {100 * found.high:.0f} %.{loud}"
    )


def _legend(effort: Effort) -> str:
    return (
        f"Median of {effort.rounds} interleaved rounds ({effort.held_rounds} with 1,000 streams), "
        "in brackets the lowest and the highest; `x nginx` and `added` are taken within each "
        "round. What the rows mean: `bench/README.md`.\n"
    )


def _report(bench: Bench, facts: dict[str, str], effort: Effort, took_s: float) -> tuple[str, str]:
    """Markdown and JSON of a run."""
    made = table.lines(bench.results, bench.error_counts())
    day = dt.datetime.now(tz=dt.UTC).date().isoformat()
    text = [
        f"# Bench of {day}\n",
        table.markdown(made),
        _legend(effort),
        _foreign(bench) + "\n",
        machine.markdown(facts) + "\n",
    ]
    wrong = [
        f"- {measure}, {system}: {count} x {kind.splitlines()[0]}"
        for measure, found in bench.errors.items()
        for system, kinds in found.items()
        for kind, count in kinds.most_common(5)
    ]
    if wrong:
        text += ["## Errors\n", *wrong, ""]
    data = {
        "date": day,
        "machine": facts,
        "effort": dataclasses.asdict(effort),
        "took_s": round(took_s, 1),
        "rows": table.records(made),
        "rounds": bench.results,
        "errors": bench.errors,
    }
    return "\n".join(text), json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=DESCRIPTION)
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds: about 3 min")
    parser.add_argument(
        "--only", action="append", choices=list(MEASURES), help="one measure; may be repeated"
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
    effort = _effort(arguments)
    first = systems.first_command(arguments.first)
    builders = {
        name: build
        for name, build in systems.builders(first, nginx).items()
        if not arguments.system or name in arguments.system
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="first-bench-")))

        async def start(system: systems.System, core: int) -> Running:
            running = Running(system, core=core, folder=folder)
            stack.callback(running.stop)
            seconds = await running.wait_ready()
            print(f"{system.name}: up after {seconds:.2f} s", file=sys.stderr, flush=True)
            return running

        direct = await start(systems.upstream(first), load_core)
        running = {"direct": direct}
        works = await _learn_all(direct.system.ports)
        for name, build in builders.items():
            running[name] = await start(build(direct.system.ports, folder), under_test)
        context = Context(
            core=under_test,
            effort=effort,
            folder=folder,
            upstreams=direct.system.ports,
            builders=builders,
            works=works,
        )
        bench = Bench(context, running, arguments.only or list(MEASURES))
        await bench.run()
        return bench


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
    if nginx is None and not arguments.no_nginx:
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
    text, data = _report(bench, facts, bench.context.effort, took_s)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_name(arguments.out.name + ".md").write_text(text)
        arguments.out.with_name(arguments.out.name + ".json").write_text(data)
    return 1 if "FAIL" in text else 0


if __name__ == "__main__":
    sys.exit(main())
