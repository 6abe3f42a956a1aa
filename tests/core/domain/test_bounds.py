"""Bounds on calls in flight."""

from __future__ import annotations

import pytest

from first_core.domain.bounds import (
    LEAST,
    SAMPLES_PER_LOOK,
    UNBOUNDED,
    AdaptiveBound,
    FixedBound,
)
from first_core.types import EndpointLoad


def load(waiting: int | None, running: int | None = None) -> EndpointLoad:
    return EndpointLoad(running_count=running, waiting_count=waiting)


def answer(bound: AdaptiveBound, seconds: float, in_flight: int) -> None:
    for _ in range(SAMPLES_PER_LOOK):
        bound.answered(seconds, in_flight)


def test_fixed_bound_stays() -> None:
    """What an engine tells changes nothing."""
    bound = FixedBound(8)
    bound.told(load(100, 8), 8)

    assert bound.limit == 8
    assert FixedBound(None).limit == UNBOUNDED


def test_adaptive_bound_begins_open() -> None:
    """Nothing is bounded until there is a reason."""
    assert AdaptiveBound().limit == UNBOUNDED


def test_waiting_calls_of_ours_shrink_the_bound_to_what_runs() -> None:
    """An engine that runs 16 of our 40 calls gets 16."""
    bound = AdaptiveBound()
    bound.told(load(24, 16), 40)

    assert bound.limit == 16


def test_waiting_calls_of_others_are_theirs() -> None:
    """Where a tenth of the engine's calls is ours, a tenth of the waiting ones is."""
    bound = AdaptiveBound()
    bound.told(load(100, 100), 20)

    assert bound.limit == 10


def test_bound_never_starves_an_endpoint() -> None:
    """However many wait, a few calls stay allowed."""
    bound = AdaptiveBound()
    bound.told(load(1000, 0), 5)

    assert bound.limit == LEAST


def test_bound_grows_while_it_is_used_up_and_nothing_waits() -> None:
    """By a tenth a look, and not while there is room anyway."""
    bound = AdaptiveBound()
    bound.told(load(20, 20), 40)
    bound.told(load(0, 10), 10)
    unused = bound.limit
    bound.told(load(0, 20), 20)

    assert (unused, bound.limit) == (20, 22)


def test_slow_first_chunks_shrink_the_bound_of_a_silent_engine() -> None:
    """An engine that tells nothing is judged by its first chunks."""
    bound = AdaptiveBound()
    answer(bound, 0.1, 40)
    answer(bound, 0.5, 40)

    assert bound.limit == 36


def test_first_chunks_say_nothing_where_the_engine_tells() -> None:
    """The engine's own figures are the better ones."""
    bound = AdaptiveBound()
    bound.told(load(0, 40), 40)
    answer(bound, 0.1, 40)
    answer(bound, 0.5, 40)

    assert bound.limit == UNBOUNDED


@pytest.mark.parametrize("waiting", [None, 0])
def test_quiet_engine_bounds_nothing(waiting: int | None) -> None:
    """No waiting call, no bound."""
    bound = AdaptiveBound()
    bound.told(load(waiting, 40), 40)

    assert bound.limit == UNBOUNDED
