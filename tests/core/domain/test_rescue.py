"""The order of rescue, and what bounds it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    LimitExceededError,
    UpstreamRejectedError,
)
from first_core.settings import (
    AdmissionSettings,
    EndpointSettings,
    ModelSettings,
    ResilienceSettings,
    RoutingSettings,
)
from first_core.types import Pin, UpstreamError


def fault() -> BackendUnavailableError:
    return BackendUnavailableError("it broke")


def silent(bound: str = "first_chunk") -> BackendTimeoutError:
    return BackendTimeoutError("silence", metadata={"bound": bound})


def rejected(status: int, message: str) -> UpstreamRejectedError:
    said = UpstreamError(status, "application/json", b"{}")
    return UpstreamRejectedError(message, upstream=said)


def models(*fallbacks: str) -> dict[str, Any]:
    model = ModelSettings(name="m", fallbacks=list(fallbacks))
    return {"routing": RoutingSettings(models=[model])}


async def test_another_endpoint_answers_at_once(world: Any) -> None:
    """After a fault the next endpoint is asked without any wait."""
    w = world()
    w.add("a", fault())
    w.add("b", b'{"x":1}')

    result = await w.call()  # the clock stands still: a wait would never end

    assert result.head.endpoint.cluster == "b"
    assert result.head.attempt_count == 2


async def test_the_same_endpoint_is_asked_again_after_a_wait(world: Any) -> None:
    """Where no other one is left the same endpoint gets another try, half to one and a half of the
    mean wait later."""
    w = world(resilience=ResilienceSettings(same_endpoint_wait_s=1.0))
    a = w.add("a", fault(), b"{}")
    task = w.begin()
    await w.clock.wait_timers()
    w.clock.advance(0.49)
    await asyncio.sleep(0)
    assert len(a.calls) == 1
    w.clock.advance(1.02)

    assert (await task).head.attempt_count == 2


async def test_the_wait_doubles(world: Any, settled: Any) -> None:
    """Each further wait at the same endpoint has twice the mean of the one before."""
    w = world(resilience=ResilienceSettings(same_endpoint_wait_s=1.0))
    a = w.add("a", fault(), fault(), b"{}")
    task = w.begin()
    await w.clock.wait_timers()
    w.clock.advance(1.5)
    await settled()
    w.clock.advance(0.99)
    await settled()
    assert len(a.calls) == 2
    w.clock.advance(2.02)

    assert (await task).head.attempt_count == 3


async def test_a_short_retry_after_is_obeyed_to_the_second(world: Any, settled: Any) -> None:
    """The upstream's own wait replaces ours."""
    w = world()
    a = w.add("a", LimitExceededError("later", retry_after_s=3.0), b"{}")
    task = w.begin()
    await w.clock.wait_timers()
    w.clock.advance(2.99)
    await settled()
    assert len(a.calls) == 1
    w.clock.advance(0.01)

    assert (await task).head.attempt_count == 2


async def test_a_long_retry_after_is_told(world: Any) -> None:
    """A wait above the setting is the client's: it gets the error with its figure, at once."""
    w = world()
    a = w.add("a", LimitExceededError("later", retry_after_s=30.0))
    with pytest.raises(LimitExceededError) as caught:
        await w.call()

    assert caught.value.retry_after_s == 30.0
    assert len(a.calls) == 1


async def test_an_endpoint_that_asked_for_rest_is_left_alone(world: Any) -> None:
    """While a `Retry-After` runs no call goes there, and its breaker knows of no fault."""
    w = world(admission=AdmissionSettings(wait_s=0))
    a = w.add("a", LimitExceededError("later", retry_after_s=30.0), b"{}")
    w.add("b")
    await w.call()
    await w.call()
    assert len(a.calls) == 1
    assert not w.endpoint("a").breaker.is_open
    w.clock.advance(30.0)

    assert (await w.call()).head.endpoint.cluster == "a"


async def test_a_silent_endpoint_is_never_asked_again(world: Any) -> None:
    """Silence until the bound is the last word of an endpoint in this call."""
    w = world()
    a = w.add("a", silent())
    with pytest.raises(BackendTimeoutError):
        await w.call()

    assert len(a.calls) == 1


async def test_after_silence_another_one_is_waited_for(world: Any, settled: Any) -> None:
    """Who cannot ask the silent endpoint again waits in line for the other one."""
    w = world(endpoints=[EndpointSettings(cluster="b", max_in_flight=1)])
    w.add("a", silent())
    free = asyncio.Event()
    w.add("b", free, b"{}")
    first = w.begin(pin=Pin(cluster="b"))
    await settled()
    second = w.begin()
    await settled()
    free.set()

    assert (await second).head.endpoint.cluster == "b"
    await first


async def test_a_total_bound_ends_the_call(world: Any) -> None:
    """When the whole call took too long nobody else is asked, and nobody is blamed."""
    w = world()
    w.add("a", silent("total"))
    b = w.add("b")
    for _ in range(5):
        with pytest.raises(BackendTimeoutError):
            await w.call()

    assert not b.calls
    assert not w.endpoint("a").breaker.is_open


async def test_a_callers_own_haste_is_no_fault(world: Any) -> None:
    """A first-chunk bound below the setting's may fail a call, but opens no breaker."""
    w = world(resilience=ResilienceSettings(max_attempts=1))
    w.add("a", silent())
    for _ in range(5):
        with pytest.raises(BackendTimeoutError):
            await w.call(first_chunk_timeout_s=0.01)

    assert not w.endpoint("a").breaker.is_open


async def test_a_fallback_model_comes_last(world: Any) -> None:
    """Only after all endpoints of the model failed its fallback answers, and says so."""
    w = world(**models("big"), resilience=ResilienceSettings(same_endpoint_wait_s=0))
    a = w.add("a", fault())
    w.add("b", b"{}", model="big")

    result = await w.call()

    assert result.head.endpoint.model == "big"
    assert len(a.calls) >= 2
    assert w.records[0].requested_model == "m"
    assert w.records[0].answered_model == "big"


async def test_the_models_own_failure_is_told_when_fallbacks_fail_too(world: Any) -> None:
    """The error is that of the model that was asked for."""
    w = world(**models("big"), resilience=ResilienceSettings(max_attempts=2))
    w.add("a", silent())
    w.add("b", fault(), model="big")

    with pytest.raises(BackendTimeoutError):
        await w.call()


async def test_a_prompt_too_long_goes_to_a_larger_window_only(world: Any) -> None:
    """Never to the same model again, nor to a fallback whose window is no larger."""
    w = world(**models("small", "big"))
    too_long = rejected(400, "This model's maximum context length is 10 tokens")
    a = w.add("a", too_long, context_window_token_count=10)
    b = w.add("b", model="m", context_window_token_count=10)
    small = w.add("s", model="small", context_window_token_count=10)
    w.add("l", model="big", context_window_token_count=100)

    result = await w.call()

    assert result.head.endpoint.model == "big"
    assert len(a.calls) + len(b.calls) == 1
    assert not small.calls


@pytest.mark.parametrize("status", [400, 403, 404, 422])
async def test_a_refusal_is_one_attempt(world: Any, status: int) -> None:
    """A 4xx, as for content, goes to nobody else, neither endpoint nor fallback model."""
    w = world(**models("big"))
    w.add("a", rejected(status, "content policy"))
    b, c = w.add("b"), w.add("c", model="big")
    with pytest.raises(UpstreamRejectedError, match="content policy"):
        await w.call()

    assert not b.calls
    assert not c.calls


async def test_attempts_are_bounded(world: Any) -> None:
    """`max_attempts` counts over all endpoints."""
    w = world(resilience=ResilienceSettings(max_attempts=3))
    scripts = [w.add(name, fault()) for name in "abcde"]
    with pytest.raises(BackendUnavailableError):
        await w.call()

    assert sum(len(script.calls) for script in scripts) == 3


async def test_the_retry_budget_bounds_an_outage(world: Any) -> None:
    """When everything fails further attempts stay near the ratio, however many calls come."""
    w = world(resilience=ResilienceSettings(same_endpoint_wait_s=0, retry_ratio=0.1))
    scripts = [w.add(name, fault()) for name in "abcd"]
    for _ in range(1000):
        with pytest.raises(BackendUnavailableError):
            await w.call()

    attempts = sum(len(script.calls) for script in scripts)
    assert attempts <= 1000 + 100 + 100  # the calls, what was saved up, what they earned


async def test_a_pin_holds_in_rescue(world: Any) -> None:
    """A call that is pinned fails rather than go elsewhere."""
    w = world(resilience=ResilienceSettings(same_endpoint_wait_s=0))
    w.add("a", fault())
    b = w.add("b")
    with pytest.raises(BackendUnavailableError):
        await w.call(pin=Pin(cluster="a"))

    assert not b.calls


async def test_an_open_breaker_is_the_last_resort_of_a_rescue(world: Any) -> None:
    """An endpoint known to be broken is not tried while the one that just failed may be again."""
    w = world(resilience=ResilienceSettings(same_endpoint_wait_s=0))
    w.add("a", fault(), b"{}")
    b = w.add("b", fault())
    for _ in range(3):
        w.endpoint("b").breaker.failed()

    assert (await w.call()).head.endpoint.cluster == "a"
    assert not b.calls


async def test_plugin_bugs_are_not_tried_again(world: Any) -> None:
    """What is no `FirstError` ends the call, and leaves no slot taken."""
    w = world()
    w.add("a", RuntimeError("bug"))
    b = w.add("b")
    with pytest.raises(RuntimeError):
        await w.call()

    assert not b.calls
