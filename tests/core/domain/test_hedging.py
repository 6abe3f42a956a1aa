"""A second attempt for a plain call that takes long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from first_core.errors import BackendUnavailableError, OverloadedError, UpstreamRejectedError
from first_core.settings import EndpointSettings, ResilienceSettings
from first_core.types import UpstreamError

HEDGE = {"resilience": ResilienceSettings(hedge=True, max_attempts=2, same_endpoint_wait_s=0)}
ANSWER = b'{"usage":{"prompt_tokens":%d,"completion_tokens":1}}'


def learned(world: Any, cluster: str = "a", p95_s: float = 1.0) -> None:
    for _ in range(20):
        world.endpoint(cluster).learned.add(p95_s)


async def test_nobody_is_asked_twice_before_the_95th_percentile(world: Any, settled: Any) -> None:
    """Until most calls would have ended, and without enough samples ever, there is one attempt."""
    w = world(**HEDGE)
    end = asyncio.Event()
    w.add("a", end)
    b = w.add("b")
    task = w.begin()
    await settled()
    w.clock.advance(1000)
    await settled()
    end.set()
    await task
    learned(w)
    end.clear()
    task = w.begin()
    await settled()
    w.clock.advance(0.9)
    await settled()
    end.set()
    await task

    assert not b.calls


async def test_the_second_answer_wins_and_the_first_is_cancelled(world: Any, settled: Any) -> None:
    """The loser's work stops, its slot is free, and only the winner's usage counts."""
    w = world(**HEDGE)
    a = w.add("a", asyncio.Event())
    w.add("b", ANSWER % 7)
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(1.0)
    result = await task

    assert result.head.endpoint.cluster == "b"
    assert a.cancelled_count == 1
    assert w.records[0].usage.input_token_count == 7
    assert (len(w.records), w.records[0].attempt_count) == (1, 2)
    assert not w.endpoint("a").breaker.is_open


async def test_the_first_answer_wins_and_the_second_is_cancelled(world: Any, settled: Any) -> None:
    """The other way round the same holds."""
    w = world(**HEDGE)
    end = asyncio.Event()
    w.add("a", end)
    b = w.add("b", asyncio.Event())
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(1.0)
    await b.begun.wait()
    end.set()

    assert (await task).head.endpoint.cluster == "a"
    assert b.cancelled_count == 1
    assert w.records[0].endpoint.cluster == "a"


async def test_when_both_fail_the_first_error_is_told(world: Any, settled: Any) -> None:
    """What the second attempt says stays inside."""
    w = world(**HEDGE)
    end = asyncio.Event()
    a = w.add("a")

    async def fails(_call: Any) -> Any:
        a.begun.set()
        await end.wait()
        raise BackendUnavailableError("the first")

    w.endpoint("a").backend._on_call = fails
    b = w.add("b", OverloadedError("the second"))
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(1.0)
    await b.begun.wait()
    await settled()
    end.set()

    with pytest.raises(BackendUnavailableError, match="the first"):
        await task


async def test_a_refusal_by_the_first_ends_the_call(world: Any, settled: Any) -> None:
    """What the first endpoint says against the call itself is not waited upon."""
    w = world(**HEDGE)
    end = asyncio.Event()
    w.add("a")

    async def refuses(_call: Any) -> Any:
        await end.wait()
        raise UpstreamRejectedError("no", upstream=UpstreamError(400, "text/plain", b""))

    w.endpoint("a").backend._on_call = refuses
    b = w.add("b", asyncio.Event())
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(1.0)
    await b.begun.wait()
    end.set()

    with pytest.raises(UpstreamRejectedError):
        await task
    assert b.cancelled_count == 1


async def test_no_other_endpoint_no_hedge(world: Any, settled: Any) -> None:
    """A call whose only endpoint is slow waits for it."""
    w = world(**HEDGE)
    end = asyncio.Event()
    a = w.add("a", end)
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(5.0)
    await settled()
    end.set()
    await task

    assert len(a.calls) == 1


async def test_hedges_pay_from_the_retry_budget(world: Any, settled: Any) -> None:
    """When everything is slow, second attempts stay within the budget."""
    w = world(resilience=ResilienceSettings(hedge=True, retry_ratio=0))
    w.add("a", asyncio.Event())
    b = w.add("b")
    learned(w)
    while w.config.budget.spend():
        pass
    task = w.begin()
    await settled()
    w.clock.advance(1.0 - 1e-9)
    w.config.budget._balance = 0.0
    w.config.budget._refill_s = w.clock.monotonic() + 1
    w.clock.advance(1e-9)
    await settled()

    assert not b.calls
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_client_that_leaves_stops_both(world: Any, settled: Any) -> None:
    """Cancelling reaches both attempts."""
    w = world(**HEDGE, endpoints=[EndpointSettings(max_in_flight=1)])
    a, b = w.add("a", asyncio.Event()), w.add("b", asyncio.Event())
    learned(w)
    task = w.begin()
    await settled()
    w.clock.advance(1.0)
    await b.begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert (a.cancelled_count, b.cancelled_count) == (1, 1)
