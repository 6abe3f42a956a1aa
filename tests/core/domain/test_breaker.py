"""The breaker: what opens it, how it closes, and what an outage costs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from first_core.domain.breaker import Breaker
from first_core.errors import (
    BackendUnavailableError,
    FirstError,
    LimitExceededError,
    OverloadedError,
    UpstreamRejectedError,
)
from first_core.settings import EndpointSettings, ResilienceSettings
from first_core.testing.clock import FakeClock
from first_core.types import Pin, UpstreamError

if TYPE_CHECKING:
    from first_core.plugin import Answer, Call

TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def fault() -> BackendUnavailableError:
    return BackendUnavailableError("it broke")


def opened() -> tuple[Breaker, FakeClock]:
    clock = FakeClock()
    breaker = Breaker(clock)
    for _ in range(3):
        breaker.failed()
    return breaker, clock


def test_three_faults_in_a_row_open_it() -> None:
    """Two do not, nor three with a success among them."""
    breaker = Breaker(FakeClock())
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed):
        outcome()
    assert breaker.allows()
    breaker.failed()
    breaker.failed()

    assert breaker.is_open
    assert not breaker.allows()


def test_half_of_many_calls_opens_it() -> None:
    """An endpoint that fails every other call is kept away from too."""
    breaker = Breaker(FakeClock())
    for _ in range(5):
        breaker.succeeded()
        breaker.failed()

    assert breaker.is_open


def test_a_few_faults_among_many_do_not() -> None:
    """One fault in three is not half."""
    breaker = Breaker(FakeClock())
    for _ in range(50):
        breaker.succeeded()
        breaker.succeeded()
        breaker.failed()

    assert not breaker.is_open


def test_one_call_probes() -> None:
    """After the pause exactly one call goes; the others wait for what it finds."""
    breaker, clock = opened()
    assert not breaker.begin()
    clock.advance(2.0)

    assert breaker.allows()
    assert breaker.begin()
    assert not breaker.allows()
    assert not breaker.begin()


def test_the_pause_doubles_up_to_a_bound() -> None:
    """Each probe that fails doubles the pause, to no more than 15 s."""
    breaker, clock = opened()
    pauses = []
    for _ in range(5):
        pauses.append(breaker.opened_until_s - clock.monotonic())
        clock.advance(pauses[-1])
        assert breaker.begin()
        breaker.failed(is_probe=True)

    assert pauses == [2.0, 4.0, 8.0, 15.0, 15.0]


def test_a_success_closes_it() -> None:
    """One answered call and everything is as before."""
    breaker, clock = opened()
    clock.advance(2.0)
    breaker.begin()
    breaker.succeeded()

    assert not breaker.is_open
    breaker.failed()
    assert breaker.allows()


def test_a_probe_that_begins_to_answer_closes_it() -> None:
    """A probing stream that lasts for hours keeps nobody away: its first chunk is enough."""
    breaker, clock = opened()
    clock.advance(2.0)
    breaker.begin()
    breaker.answers()

    assert breaker.allows()


def test_an_older_call_says_nothing_new() -> None:
    """Faults and ends of calls that began before it opened change neither pause nor probe."""
    breaker, clock = opened()
    until_s = breaker.opened_until_s
    breaker.failed()
    clock.advance(2.0)
    assert breaker.begin()
    breaker.failed()
    breaker.abandoned()

    assert breaker.opened_until_s == until_s
    assert not breaker.allows()


def test_an_abandoned_probe_leaves_room_for_the_next() -> None:
    """A probe without a verdict does not stay half-open for ever."""
    breaker, clock = opened()
    clock.advance(2.0)
    breaker.abandoned(is_probe=breaker.begin())

    assert breaker.begin()


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRejectedError("no", upstream=UpstreamError(404, "text/plain", b"")),
        LimitExceededError("429"),
        OverloadedError("503"),
    ],
    ids=["4xx", "429", "503"],
)
async def test_only_faults_open_it(world: Any, error: FirstError) -> None:
    """Refusals, limits and overload say nothing against an endpoint's health."""
    w = world(resilience=ResilienceSettings(max_attempts=1))
    w.add("a", error)
    for _ in range(20):
        with pytest.raises(type(error)):
            await w.call()

    assert not w.endpoint("a").breaker.is_open


async def test_the_last_one_is_never_ejected(world: Any) -> None:
    """A model whose endpoints all have open breakers is still tried."""
    w = world(resilience=ResilienceSettings(max_attempts=1))
    a = w.add("a", fault())
    for _ in range(20):
        with pytest.raises(BackendUnavailableError):
            await w.call()

    assert len(a.calls) == 20


@pytest.mark.parametrize("outage_s", [6, 60])
async def test_an_outage_is_nobodys_error(world: Any, outage_s: int) -> None:
    """A call each second is answered all through it, and the endpoint is soon in use again."""
    w = world()
    a = w.add("a")
    w.add("b")
    begin_s = w.clock.monotonic()

    async def on_call(call: Call) -> Answer:
        a.calls.append(call)
        if w.clock.monotonic() - begin_s < outage_s:
            raise fault()
        return await w.endpoint("b").backend.call(call)

    w.endpoint("a").backend._on_call = on_call
    back_s = None
    for second in range(outage_s + 20):
        result = await w.call()
        if result.head.endpoint.cluster == "a" and back_s is None:
            back_s = second
        w.clock.advance(1.0)

    assert back_s is not None
    assert back_s - outage_s <= (4 if outage_s == 6 else 15)
    assert len(a.calls) < 3 + 6 + 21  # faults that opened it, probes, calls after it


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_amid_the_probe_leaves_no_probe(
    world: Any,
    settled: Any,
    streamed: bool,  # noqa: FBT001 - of a test
) -> None:
    """Cancelling the probing call lets the next one probe."""
    w = world()
    a = w.add("a", asyncio.Event(), [TEXT, END] if streamed else b"{}")
    w.add("b", [TEXT, END] if streamed else b"{}")
    for _ in range(3):
        w.endpoint("a").breaker.failed()
    w.clock.advance(2.0)
    run = w.stream if streamed else w.call
    task = asyncio.ensure_future(run())
    await a.begun.wait()
    assert not w.endpoint("a").breaker.allows()
    task.cancel()
    await settled()
    await run()

    assert len(a.calls) == 2
    assert not w.endpoint("a").breaker.is_open


async def test_waiters_send_one_probe_too(world: Any, settled: Any) -> None:
    """When the pause ends with many calls in the queue, one of them probes."""
    w = world(endpoints=[EndpointSettings(cluster="b", max_in_flight=1)])
    held = asyncio.Event()
    a, b = w.add("a", asyncio.Event()), w.add("b", held, b"{}")
    for _ in range(3):
        w.endpoint("a").breaker.failed()
    first = w.begin(pin=Pin(cluster="b"))
    await b.begun.wait()
    tasks = [w.begin() for _ in range(5)]
    await settled()
    assert not a.calls
    for _ in range(3):
        w.clock.advance(1.0)
        await settled()

    assert len(a.calls) == 1
    held.set()
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(first, *tasks, return_exceptions=True)
