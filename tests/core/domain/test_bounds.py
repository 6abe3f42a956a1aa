"""How many calls an endpoint gets at once."""

from __future__ import annotations

from first_core.domain.bounds import LEAST, UNBOUNDED, AdaptiveBound, FixedBound
from first_core.types import EndpointLoad


def waiting(count: int) -> EndpointLoad:
    return EndpointLoad(running_count=1, waiting_count=count)


def look(bound: AdaptiveBound, first_chunk_s: float, in_flight_count: int) -> None:
    for _ in range(20):
        bound.answered(first_chunk_s, in_flight_count)


def test_a_fixed_bound_stays() -> None:
    """Neither figures nor times move it; none set is none."""
    bound = FixedBound(3)
    bound.told(waiting(9), 30)
    bound.answered(9.0, 30)

    assert bound.limit == 3
    assert FixedBound(None).limit == UNBOUNDED


def test_it_shrinks_to_what_the_engine_runs() -> None:
    """Calls that wait inside the engine belong into our queue."""
    bound = AdaptiveBound()
    bound.told(waiting(20), 60)

    assert bound.limit == 40


def test_it_grows_while_it_is_used_up_and_nobody_waits() -> None:
    """By a tenth with each look; not while there is room anyhow."""
    bound = AdaptiveBound()
    bound.told(waiting(20), 60)
    bound.told(waiting(0), 39)
    assert bound.limit == 40
    bound.told(waiting(0), 40)

    assert bound.limit == 44


def test_it_never_starves_an_endpoint() -> None:
    """Bad figures leave a few calls."""
    bound = AdaptiveBound()
    bound.told(waiting(100), 3)

    assert bound.limit == LEAST


def test_slow_first_chunks_shrink_it_where_the_engine_tells_nothing() -> None:
    """Twice the best time to the first chunk means full."""
    bound = AdaptiveBound()
    look(bound, 0.1, 10)
    look(bound, 0.3, 100)

    assert bound.limit == 90


def test_quick_first_chunks_let_it_grow() -> None:
    """A bound that is used up grows again when answers are quick."""
    bound = AdaptiveBound()
    look(bound, 0.1, 10)
    look(bound, 0.3, 100)
    look(bound, 0.1, 90)

    assert bound.limit == 99


def test_the_engines_word_counts_more_than_times() -> None:
    """Where the engine tells, slow first chunks alone change nothing: prompts may be long."""
    bound = AdaptiveBound()
    bound.told(waiting(0), 10)
    look(bound, 0.1, 10)
    look(bound, 9.0, 100)

    assert bound.limit == UNBOUNDED


def test_a_server_that_became_slower_is_believed_in_time() -> None:
    """The best time ages, so the bound stops shrinking."""
    bound = AdaptiveBound()
    look(bound, 0.1, 10)
    for _ in range(100):
        look(bound, 0.25, bound.limit if bound.limit < UNBOUNDED else 200)

    before = bound.limit
    look(bound, 0.25, before)
    assert bound.limit > before
