from __future__ import annotations

import asyncio

import pytest

from first_core.testing.clock import FakeClock
from first_globus.rate import RateLimit
from first_globus.settings import RateSettings


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make(tmp_path, clock):
    def limit(**fields) -> RateLimit:
        settings = RateSettings(requests=3, period_s=10.0, file=str(tmp_path / "rate"), **fields)
        return RateLimit(settings, client_id="client", clock=clock)

    return limit


async def test_requests_within_the_rate_do_not_wait(make):
    """As many as the period allows go at once."""
    limit = make()

    async with asyncio.timeout(5):
        for _ in range(3):
            await limit.take()


async def test_next_request_waits_for_the_oldest_to_age(make, clock):
    """One more goes when the first one is a period old, and not before."""
    limit = make()
    for _ in range(3):
        await limit.take()
    late = asyncio.create_task(limit.take())
    await clock.wait_timers(1)

    clock.advance(9.9)
    assert not late.done()
    clock.advance(0.2)

    await asyncio.wait_for(late, 5)


async def test_processes_share_the_rate(make, clock):
    """Two limits of one client id count together."""
    one, other = make(), make()
    await one.take()
    await other.take()
    await one.take()
    late = asyncio.create_task(other.take())

    await clock.wait_timers(1)

    assert not late.done()
    late.cancel()


async def test_clock_that_was_set_back_blocks_nobody_for_ever(make, clock, tmp_path):
    """Times in the future count as now, and age from now on."""
    ahead = FakeClock(time_s=clock.time() + 1e6)
    settings = RateSettings(requests=1, period_s=10.0, file=str(tmp_path / "one"))
    await RateLimit(settings, client_id="c", clock=ahead).take()
    late = asyncio.create_task(RateLimit(settings, client_id="c", clock=clock).take())
    await clock.wait_timers(1)

    clock.advance(10.1)

    await asyncio.wait_for(late, 5)


async def test_file_is_for_its_owner_only(make, tmp_path):
    """Others cannot read or spoil the count."""
    await make().take()

    assert (tmp_path / "rate").stat().st_mode & 0o077 == 0
