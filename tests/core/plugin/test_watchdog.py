from __future__ import annotations

import asyncio

import pytest

from first_core.errors import BackendTimeoutError
from first_core.plugin.watchdog import TICK_S, Watchdog
from first_core.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def dog(clock) -> Watchdog:
    return Watchdog(clock)


def watched(dog: Watchdog, *phases, total_s: float | None = None, begun: asyncio.Event):
    """Start a task that is watched, and sits in its last phase for good."""

    async def run() -> None:
        with dog.watch(asyncio.current_task(), total_s=total_s) as watch:
            for bound, timeout_s in phases:
                watch.expect(bound, timeout_s)
            begun.set()
            await asyncio.Event().wait()

    return asyncio.create_task(run())


@pytest.fixture
def begun() -> asyncio.Event:
    return asyncio.Event()


@pytest.mark.parametrize(
    ("bound", "started"),
    [("connect", False), ("first_chunk", True), ("idle", True), ("total", True)],
)
async def test_watch_tells_the_bound_that_was_hit(dog, clock, begun, bound, started):
    """A deadline becomes an error that names it; before a connection no work has started."""
    task = watched(dog, (bound, 2.0), begun=begun)
    await begun.wait()

    clock.advance(2.0 + TICK_S)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata == {"bound": bound, "timeout_s": "2"}
    assert caught.value.work_started is started


async def test_watch_leaves_a_task_alone_until_its_deadline(dog, clock, begun):
    """Nothing is cancelled early."""
    task = watched(dog, ("idle", 2.0), begun=begun)
    await begun.wait()

    clock.advance(1.9)
    await asyncio.sleep(0)

    assert task.cancelling() == 0
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_watch_obeys_a_deadline_that_was_moved(dog, clock):
    """The owner moves the deadline by assigning it."""
    begun = asyncio.Event()
    watches = []

    async def run() -> None:
        with dog.watch(asyncio.current_task()) as watch:
            watch.expect("idle", 2.0)
            watches.append(watch)
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await begun.wait()
    clock.advance(1.5)
    watches[0].deadline_s = clock.monotonic() + 2.0

    clock.advance(1.5)
    await asyncio.sleep(0)
    early = task.done()
    clock.advance(1.0)

    assert not early
    with pytest.raises(BackendTimeoutError):
        await task


async def test_watch_ends_at_total_though_phases_go_on(dog, clock, begun):
    """No phase moves the bound on the whole."""
    task = watched(dog, ("idle", 60.0), total_s=3.0, begun=begun)
    await begun.wait()

    clock.advance(3.0 + TICK_S)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata == {"bound": "total", "timeout_s": "3"}


async def test_watch_has_no_bound_where_none_is_set(dog, clock, begun):
    """`None` means without end."""
    task = watched(dog, ("idle", None), begun=begun)
    await begun.wait()

    clock.advance(3600.0)
    await asyncio.sleep(0)

    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_watch_passes_a_cancellation_through(dog, begun):
    """What others cancel is cancelled, and no timeout."""
    task = watched(dog, ("idle", 2.0), begun=begun)
    await begun.wait()

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_watch_passes_a_cancellation_through_that_meets_a_deadline(dog, clock, begun):
    """Where both come at once the cancellation wins: nobody waits for an answer any more."""
    task = watched(dog, ("idle", 2.0), begun=begun)
    await begun.wait()

    clock.advance(3.0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_watch_leaves_no_trace_of_its_cancellation(dog, clock):
    """After a timeout the task can go on: it does not count as being cancelled."""

    async def run() -> int:
        with pytest.raises(BackendTimeoutError), dog.watch(asyncio.current_task()) as watch:
            watch.expect("idle", 1.0)
            clock.advance(2.0)
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return asyncio.current_task().cancelling()

    assert await asyncio.create_task(run()) == 0


async def test_watch_passes_errors_through(dog, clock):
    """An error that ends the work as the deadline passes is told as it is."""
    with pytest.raises(LookupError), dog.watch(asyncio.current_task()) as watch:
        watch.expect("idle", 1.0)
        clock.advance(2.0)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise LookupError from None


async def test_watch_ends_with_its_context(dog, clock):
    """A task that has left is never cancelled."""
    with dog.watch(asyncio.current_task()) as watch:
        watch.expect("idle", 1.0)

    clock.advance(5.0)
    await asyncio.sleep(0)

    assert asyncio.current_task().cancelling() == 0


async def test_watchdog_has_one_timer_for_all_watches(dog, clock):
    """Watches share the timer, and without any it stops."""
    task = asyncio.current_task()
    with dog.watch(task), dog.watch(task), dog.watch(task):
        shared = clock.timer_count
    clock.advance(2 * TICK_S)

    assert shared == 1
    assert clock.timer_count == 0
