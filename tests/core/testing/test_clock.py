from __future__ import annotations

import asyncio

import pytest

from first_core.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(time_s=100.0, monotonic_s=5.0)


async def test_clock_stands_still_until_moved(clock):
    """Both readings move by what `advance` says, and by nothing else."""
    clock.advance(2.5)

    assert (clock.time(), clock.monotonic()) == (102.5, 7.5)


async def test_clock_runs_timers_in_order_at_their_own_time(clock):
    """A timer sees the time that it was set for."""
    seen = []
    clock.call_later(3.0, lambda: seen.append(("b", clock.monotonic())))
    clock.call_later(1.0, lambda: seen.append(("a", clock.monotonic())))
    clock.call_later(9.0, lambda: seen.append(("c", clock.monotonic())))

    clock.advance(4.0)

    assert seen == [("a", 6.0), ("b", 8.0)]
    assert clock.monotonic() == 9.0


async def test_clock_runs_timers_that_timers_set(clock):
    """A timer that sets itself anew runs as often as the span has room for."""
    seen = []

    def tick() -> None:
        seen.append(clock.monotonic())
        clock.call_later(1.0, tick)

    clock.call_later(1.0, tick)

    clock.advance(3.0)

    assert seen == [6.0, 7.0, 8.0]


async def test_clock_drops_cancelled_timers(clock):
    """A cancelled timer never runs, and cancelling can be repeated."""
    seen = []
    timer = clock.call_later(1.0, lambda: seen.append(1))
    timer.cancel()
    timer.cancel()

    clock.advance(2.0)

    assert seen == []
    assert clock.timer_count == 0


async def test_clock_wakes_sleepers(clock):
    """`sleep` returns when the time has come, and a test can wait for the sleeper."""
    task = asyncio.create_task(clock.sleep(10.0))
    await clock.wait_timers(1)

    clock.advance(9.0)
    await asyncio.sleep(0)
    slept = task.done()
    clock.advance(1.0)
    await task

    assert not slept
