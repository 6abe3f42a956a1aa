"""Counts that several processes share."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from first_core.app.shared_counts import SharedCounts, create_counts
from first_core.domain.bounds import UNBOUNDED
from first_core.types import EndpointId

ENDPOINT = EndpointId("c", "f", "m")

CONTEND = """
import sys
from pathlib import Path
from first_core.app.shared_counts import SharedCounts
from first_core.types import EndpointId

counts = SharedCounts(Path(sys.argv[1]), worker_count=3, worker=int(sys.argv[2]))
count = counts(EndpointId("c", "f", "m"))
print("ready", flush=True)
sys.stdin.readline()
most = entered = 0
while entered < 20000:
    if count.try_add(2):
        entered += 1
        most = max(most, count.total)
        count.remove()
print(most)
"""
"""Enters and leaves as fast as it can, and tells the most calls that it ever saw."""


@pytest.fixture
def workers(tmp_path):
    """The counts of two workers of two."""
    path = tmp_path / "calls"
    create_counts(path, 2)
    both = [SharedCounts(path, worker_count=2, worker=number) for number in (0, 1)]
    yield both
    for counts in both:
        counts.close()


def test_calls_of_all_workers_count(workers):
    """Each worker sees the calls of the other."""
    here, there = (counts(ENDPOINT) for counts in workers)
    here.try_add(9)
    there.try_add(9)

    assert (here.total, there.total) == (2, 2)


def test_bound_holds_for_all_workers(workers):
    """A place that one worker took is not there for the other, until it is left."""
    here, there = (counts(ENDPOINT) for counts in workers)
    first = here.try_add(1)
    second = there.try_add(1)
    here.remove()
    third = there.try_add(1)

    assert (first, second, third) == (True, False, True)


def test_endpoints_count_apart(workers):
    """Each endpoint has a row of its own."""
    workers[0](ENDPOINT).try_add(9)

    assert workers[1](EndpointId("c", "f", "other")).total == 0


def test_unbounded_calls_count_too(workers):
    """What has no bound is still seen, by policies that look at load."""
    workers[0](ENDPOINT).try_add(UNBOUNDED)

    assert workers[1](ENDPOINT).total == 1


def test_calls_of_a_dead_worker_are_forgotten(workers):
    """What died with its worker takes no place."""
    here, there = (counts(ENDPOINT) for counts in workers)
    here.try_add(9)
    there.try_add(9)
    workers[0].forget(1)

    assert here.total == 1


async def test_bound_holds_while_workers_race(tmp_path):
    """Processes that enter and leave as fast as they can never exceed the bound."""
    path = tmp_path / "calls"
    create_counts(path, 3)
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CONTEND, str(path), str(number)), stdin=pipe, stdout=pipe
        )
        for number in range(3)
    ]
    for process in processes:
        await process.stdout.readline()
    for process in processes:
        process.stdin.write(b"go\n")
    most = [int((await process.communicate())[0]) for process in processes]

    with contextlib.closing(SharedCounts(path, worker_count=3, worker=0)) as counts:
        left = counts(ENDPOINT).total

    assert max(most) <= 2
    assert left == 0
