"""What backends publish, and what changes by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from first_core.testing.scripted import ScriptedBackend, ready
from first_core.types import EndpointLoad, EndpointState


def test_the_same_reports_change_nothing(world: Any) -> None:
    """A refresh that finds nothing new wakes no watcher and empties no cache."""
    w = world()
    publish = w.catalog.publisher("x", ScriptedBackend())
    reports = [ready(cluster=str(number)) for number in range(3)]
    publish(reports)
    version, change = w.catalog.version, w.catalog.next_change()
    publish(reports)
    publish([replace(report) for report in reports])

    assert w.catalog.version == version
    assert not change.is_set()


def test_a_new_state_is_told_and_keeps_the_routes(world: Any) -> None:
    """Watchers wake; who is where stays as it was."""
    w = world()
    w.add("a")
    version, change = w.catalog.version, w.catalog.next_change()
    w.clock.advance(5)
    w.publish("a", state=EndpointState.DRAINING)

    assert change.is_set()
    assert w.catalog.version == version
    assert w.endpoint("a").state_time == w.clock.time()


def test_an_endpoint_keeps_what_it_learned(world: Any) -> None:
    """A new report replaces what the backend said, not what calls have shown."""
    w = world()
    w.add("a")
    endpoint = w.endpoint("a")
    w.publish("a", state=EndpointState.DOWN)

    assert w.endpoint("a") is endpoint
    assert not endpoint.takes_calls()


def test_who_left_takes_no_calls(world: Any) -> None:
    """An endpoint that is published no longer is down for all that still hold it."""
    w = world()
    w.add("a")
    endpoint = w.endpoint("a")
    w.remove("a")

    assert not endpoint.takes_calls()
    assert endpoint.state is EndpointState.DOWN
    assert not w.catalog.endpoints()


def test_stale_figures_count_once(world: Any) -> None:
    """The same look at the engine, published twice, shrinks a bound once."""
    w = world()
    w.add("a")
    gate = w.endpoint("a").gate
    for _ in range(20):
        gate.enter()
    load = EndpointLoad(running_count=10, waiting_count=10)
    w.publish("a", load=load)
    assert gate.bound.limit == 10
    for _ in range(5):
        gate.leave()
    w.publish("a", load=load, owner="new")

    assert gate.bound.limit == 10
    for _ in range(15):
        gate.leave()


def test_a_backend_that_was_withdrawn_publishes_nothing(world: Any) -> None:
    """A late word of a backend that was replaced or removed brings nothing back."""
    w = world()
    old = w.catalog.publisher("x", ScriptedBackend())
    old([ready(cluster="old")])
    w.catalog.withdraw("x")
    old([ready(cluster="old")])
    assert not w.catalog.endpoints()
    w.catalog.publisher("x", ScriptedBackend())([ready(cluster="new")])
    old([ready(cluster="old")])

    assert [e.id.cluster for e in w.catalog.endpoints()] == ["new"]


def test_endpoints_are_sorted(world: Any) -> None:
    """By name, whatever the order of arrival."""
    w = world()
    for name in "cab":
        w.add(name)

    assert [e.id.cluster for e in w.catalog.endpoints()] == list("abc")
