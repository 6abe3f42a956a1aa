"""Who gets in, who waits, who is refused, and what a waiter leaves behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from first_core.domain.fair_queue import Priority
from first_core.errors import EndpointColdError, LimitExceededError, OverloadedError
from first_core.settings import AdmissionSettings, EndpointSettings
from first_core.types import EndpointState, Principal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_core.domain.calls import IncomingCall


def bounded(limit: int = 1, **admission: Any) -> dict[str, Any]:
    return {
        "endpoints": [EndpointSettings(max_in_flight=limit)],
        "admission": AdmissionSettings(**admission),
    }


class Held:
    """An endpoint whose calls end one by one, when the test says so."""

    def __init__(self, world: Any, cluster: str = "a", **fields: Any) -> None:
        self.order: list[str] = []
        self.most = 0
        self._ends: list[asyncio.Event] = []
        script = world.add(cluster, **fields)
        answer = script.call

        async def call(call: Any) -> Any:
            self.order.append(call.principal.id)
            end = asyncio.Event()
            self._ends.append(end)
            self.most = max(self.most, len(self._ends))
            try:
                await end.wait()
            finally:
                self._ends.remove(end)
            return await answer(call)

        world.endpoint(cluster).backend._on_call = call

    def end_one(self) -> None:
        self._ends[0].set()

    def end_all(self) -> None:
        for end in self._ends:
            end.set()

    @property
    def count(self) -> int:
        return len(self._ends)


def by(tenant: str) -> dict[str, Principal]:
    return {"principal": Principal(tenant, tenant)}


async def drain(held: Held, settled: Callable[[], Awaitable[None]]) -> None:
    while held.count:
        held.end_one()
        await settled()


async def test_the_bound_holds_under_concurrency(world: Any, settled: Any) -> None:
    """However many calls come, an engine never has more than its bound; all are answered."""
    w = world(**bounded(4))
    held = Held(w)
    tasks = [w.begin() for _ in range(50)]
    await settled()
    assert held.count == 4
    await drain(held, settled)
    await asyncio.gather(*tasks)

    assert held.most == 4


async def test_first_come_within_a_tenant(world: Any, settled: Any) -> None:
    """Calls of one tenant go in the order in which they came."""
    w = world(**bounded())
    held = Held(w)
    tasks = []
    for name in "abcde":
        tasks.append(w.begin(principal=Principal(name, "t")))
        await settled()
    await drain(held, settled)
    await asyncio.gather(*tasks)

    assert held.order == list("abcde")


async def test_tenants_share_by_weight(world: Any, settled: Any) -> None:
    """A tenant of weight 2 is served twice as often while both wait, whoever came first."""
    w = world(**bounded(tenant_weights={"big": 2.0}))
    held = Held(w)
    tasks = [w.begin(**by("x"))]
    await settled()
    tasks += [w.begin(**by("small")) for _ in range(12)]
    await settled()
    tasks += [w.begin(**by("big")) for _ in range(12)]
    await settled()
    for _ in range(10):
        held.end_one()
        await settled()

    assert held.order[1:10].count("big") == 6
    await drain(held, settled)
    await asyncio.gather(*tasks)


async def test_interactive_goes_before_batch(world: Any, settled: Any) -> None:
    """A batch call waits until no interactive one does, though it came first."""
    w = world(**bounded())
    held = Held(w)
    tasks = [w.begin(**by("x"))]
    await settled()
    tasks.append(w.begin(**by("batch"), priority=Priority.BATCH))
    await settled()
    tasks += [w.begin(**by("now")) for _ in range(2)]
    await settled()
    await drain(held, settled)
    await asyncio.gather(*tasks)

    assert held.order == ["x", "now", "now", "batch"]


async def test_nobody_overtakes_who_waits(world: Any, settled: Any) -> None:
    """A call that comes when a place falls free still queues behind those that wait."""
    w = world(**bounded())
    held = Held(w)
    tasks = [w.begin(**by("x")), w.begin(**by("y"))]
    await settled()
    held.end_one()
    tasks.append(w.begin(**by("z")))
    await settled()
    await drain(held, settled)
    await asyncio.gather(*tasks)

    assert held.order == ["x", "y", "z"]


async def test_a_full_queue_sheds(world: Any, settled: Any) -> None:
    """What finds the queue full is refused at once."""
    w = world(**bounded(max_queue=2))
    held = Held(w)
    tasks = [w.begin() for _ in range(3)]
    await settled()
    with pytest.raises(OverloadedError):
        await w.call()

    await drain(held, settled)
    await asyncio.gather(*tasks)


async def test_retry_after_is_truthful(world: Any, settled: Any) -> None:
    """A shed call is told how long the queue before it takes, learned from calls that left."""
    w = world(**bounded(max_queue=3))
    held = Held(w)
    tasks = [w.begin() for _ in range(4)]
    await settled()
    for _ in range(3):
        w.clock.advance(0.4)
        held.end_one()
        await settled()
        tasks.append(w.begin())
        await settled()
    with pytest.raises(OverloadedError) as caught:
        await w.call()

    assert caught.value.retry_after_s == pytest.approx(4 * 0.4)
    await drain(held, settled)
    await asyncio.gather(*tasks)


async def test_an_idle_time_is_no_wait(world: Any, settled: Any) -> None:
    """The first queue after a quiet hour is not told an hour."""
    w = world(**bounded(max_queue=1))
    held = Held(w)
    w.clock.advance(3600)
    tasks = [w.begin(), w.begin()]
    await settled()
    held.end_one()
    await settled()
    tasks.append(w.begin())
    await settled()
    with pytest.raises(OverloadedError) as caught:
        await w.call()

    assert caught.value.retry_after_s == 1.0
    await drain(held, settled)
    await asyncio.gather(*tasks)


async def test_resting_endpoints_tell_their_rest(world: Any) -> None:
    """When all endpoints asked for rest the caller is told the shortest one."""
    w = world(**bounded(wait_s=0))
    w.add("a", LimitExceededError("later", retry_after_s=20.0))
    w.add("b", LimitExceededError("later", retry_after_s=30.0))
    with pytest.raises(LimitExceededError):
        await w.call()
    w.clock.advance(5)
    with pytest.raises(LimitExceededError) as caught:
        await w.call()

    assert caught.value.retry_after_s == pytest.approx(15.0)


async def test_the_wait_ends_with_a_rest(world: Any) -> None:
    """Who waits for an endpoint that rests goes in at the moment when its rest is over."""
    w = world()
    a = w.add("a")
    w.endpoint("a").resting_until_s = w.clock.monotonic() + 0.3
    task = w.begin()
    await w.clock.wait_timers()
    w.clock.advance(0.3)
    await task

    assert len(a.calls) == 1


@pytest.mark.parametrize(
    ("asked", "waits_s"), [(None, 30.0), (7.0, 7.0), (1e9, 3600.0)], ids=["setting", "call", "most"]
)
async def test_the_budget_bounds_the_wait(
    world: Any, settled: Any, asked: float | None, waits_s: float
) -> None:
    """A call waits as long as it asks, up to `max_wait_s`; one that says nothing, `wait_s`."""
    w = world(**bounded())
    held = Held(w)
    first = w.begin()
    await settled()
    second = w.begin(wait_budget_s=asked)
    await settled()
    for _ in range(int(waits_s) - 1):
        w.clock.advance(1.0)
        await settled()
    assert not second.done()
    w.clock.advance(1.0)

    with pytest.raises(OverloadedError):
        await second
    held.end_all()
    await first


async def test_no_budget_no_wait(world: Any, settled: Any) -> None:
    """A call with budget 0 is refused at once."""
    w = world(**bounded())
    held = Held(w)
    first = w.begin()
    await settled()
    with pytest.raises(OverloadedError):
        await w.call(wait_budget_s=0.0)

    held.end_all()
    await first


async def test_a_cold_model_is_woken_and_waited_for(world: Any, settled: Any, written: Any) -> None:
    """The waiting room holds a call from COLD over STARTING to READY and tells where it stands."""
    w = world()
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    w.add("a", end, state=EndpointState.COLD, expected_wait_s=100.0)
    task = asyncio.ensure_future(w.stream(written=written, wait_budget_s=200.0))
    await settled()
    w.publish("a", state=EndpointState.STARTING, expected_wait_s=40.0)
    for _ in range(6):
        w.clock.advance(1.0)
        await settled()
    w.publish("a", state=EndpointState.READY)
    await task

    told = [(p.state, p.queue_position, p.expected_wait_s) for p in written.progress_told]
    assert told == [(EndpointState.COLD, 0, 100.0), (EndpointState.STARTING, 0, 40.0)]
    assert w.woken
    assert written.data_got.startswith(end)


async def test_position_and_expected_wait_are_told(world: Any, settled: Any, written: Any) -> None:
    """Who queues before a full endpoint is told its place, and the wait once it is known."""
    w = world(**bounded(progress_s=1.0))
    held = Held(w)
    tasks = [w.begin() for _ in range(3)]
    await settled()
    late = asyncio.ensure_future(w.stream(written=written))
    await settled()
    for _ in range(2):
        w.clock.advance(2.0)
        held.end_one()
        await settled()

    told = [(p.state, p.queue_position, p.expected_wait_s) for p in written.progress_told]
    assert told[0] == (EndpointState.READY, 3, None)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    await drain(held, settled)
    await asyncio.gather(*tasks)


async def test_a_wait_that_cannot_be_worth_it_is_refused_at_once(world: Any) -> None:
    """When the model is known to start later than the budget lasts, the caller learns it now."""
    w = world()
    w.add("a", state=EndpointState.QUEUED, expected_wait_s=600.0)
    with pytest.raises(EndpointColdError) as caught:
        await w.call(wait_budget_s=60.0)

    assert caught.value.retry_after_s == 600.0


async def test_an_unknown_start_is_worth_the_wait(world: Any, settled: Any) -> None:
    """Where one of the endpoints does not know its wait, nobody is refused for the other's."""
    w = world()
    w.add("a", state=EndpointState.QUEUED, expected_wait_s=600.0)
    w.add("b", state=EndpointState.STARTING)
    task = w.begin(wait_budget_s=60.0)
    await settled()
    w.publish("b", state=EndpointState.READY)

    assert (await task).head.endpoint.cluster == "b"


async def test_the_cold_waiting_room_is_bounded(world: Any, settled: Any) -> None:
    """No more calls wait for a model that is not ready than its queue holds."""
    w = world(**bounded(max_queue=2))
    w.add("a", state=EndpointState.STARTING)
    tasks = [w.begin(wait_budget_s=60.0) for _ in range(2)]
    await settled()
    with pytest.raises(EndpointColdError):
        await w.call(wait_budget_s=60.0)

    w.publish("a", state=EndpointState.READY)
    await asyncio.gather(*tasks)


async def test_a_cold_model_without_budget_is_refused(world: Any) -> None:
    """By default nobody waits for a model that is not ready."""
    w = world()
    w.add("a", state=EndpointState.COLD)
    with pytest.raises(EndpointColdError) as caught:
        await w.call()

    assert caught.value.retry_after_s == 10.0
    assert caught.value.metadata["state"] == "cold"


async def test_an_endpoint_that_comes_takes_who_waits(world: Any, settled: Any) -> None:
    """A call that waits at a full endpoint goes to a new one within a second."""
    w = world(**bounded())
    held = Held(w)
    tasks = [w.begin(), w.begin()]
    await settled()
    w.add("b")
    w.clock.advance(1.0)

    assert (await tasks[1]).head.endpoint.cluster == "b"
    held.end_all()
    await tasks[0]


async def test_an_endpoint_that_goes_keeps_nobody(world: Any, settled: Any) -> None:
    """A call outlasts the going of its only endpoint, and goes in when it is back."""
    w = world(**bounded())
    w.add("a", state=EndpointState.STARTING)
    task = w.begin(wait_budget_s=60.0)
    await settled()
    w.remove("a")
    w.clock.advance(1.0)
    await settled()
    w.publish("a")
    w.clock.advance(1.0)

    assert (await task).head.endpoint.cluster == "a"


async def test_an_endpoint_that_stays_away_is_told_as_down(world: Any, settled: Any) -> None:
    """After the budget the error names a state, never `ready`."""
    w = world(**bounded())
    w.add("a", state=EndpointState.STARTING)
    task = w.begin(wait_budget_s=2.0)
    await settled()
    w.remove("a")
    for _ in range(2):
        w.clock.advance(1.0)
        await settled()

    with pytest.raises(EndpointColdError) as caught:
        await task
    assert caught.value.metadata["state"] == "down"


async def test_a_waiter_that_leaves_frees_its_place(world: Any, settled: Any) -> None:
    """Cancelled while it queues, a call leaves no ticket, slot or timer; others go on."""
    w = world(**bounded())
    held = Held(w)
    first, second, third = (w.begin(**by(name)) for name in "abc")
    await settled()
    second.cancel()
    await settled()
    assert len(w.endpoint("a").gate.queue) == 1
    await drain(held, settled)
    await asyncio.gather(first, third)

    assert held.order == ["a", "c"]


async def test_granted_and_cancelled_in_one_moment(world: Any, settled: Any) -> None:
    """A call that is let in and cancelled before it knows gives the place to the next."""
    w = world(**bounded())
    held = Held(w)
    first, second, third = (w.begin(**by(name)) for name in "abc")
    await settled()
    w.endpoint("a").gate.leave()  # lets the second one in
    w.endpoint("a").gate.count.total += 1
    assert len(w.endpoint("a").gate.queue) == 1
    second.cancel()
    held.end_one()
    await settled()
    await drain(held, settled)
    await asyncio.gather(first, third)

    assert "b" not in held.order


async def test_cancelled_while_it_is_told(world: Any, settled: Any, written: Any) -> None:
    """A client that leaves while progress is written leaves nothing."""
    w = world(**bounded())
    stuck = asyncio.Event()

    async def progress(_progress: Any) -> None:
        await stuck.wait()

    written.progress = progress
    w.add("a", state=EndpointState.STARTING)
    task = asyncio.ensure_future(w.stream(written=written, wait_budget_s=60.0))
    await settled()
    w.publish("a", state=EndpointState.READY)  # grants the place meanwhile
    assert w.in_flight() == {"a": 1}
    task.cancel()
    await settled()

    assert w.in_flight() == {"a": 0}


async def test_cancelled_in_the_cold_waiting_room(world: Any, settled: Any) -> None:
    """A call that gives up on a cold model leaves nothing."""
    w = world()
    w.add("a", state=EndpointState.COLD)
    task: asyncio.Task[IncomingCall] = w.begin(wait_budget_s=60.0)
    await settled()
    assert w.clock.timer_count == 1
    task.cancel()
    await settled()

    w.assert_idle()


async def test_the_last_endpoint_serves_its_queue_with_an_open_breaker(
    world: Any, settled: Any
) -> None:
    """The panic rule holds for those that wait as for those that come."""
    w = world(**bounded())
    held = Held(w)
    tasks = [w.begin(), w.begin()]
    await settled()
    for _ in range(3):
        w.endpoint("a").breaker.failed()
    await drain(held, settled)

    assert [task.done() for task in tasks] == [True, True]
    await asyncio.gather(*tasks)
