"""The budget for further attempts."""

from __future__ import annotations

from first_core.domain.retries import LARGEST_BALANCE, RetryBudget
from first_core.testing.clock import FakeClock


def spent(budget: RetryBudget) -> int:
    count = 0
    while budget.spend():
        count += 1
    return count


def test_a_quiet_gateway_may_fail_over() -> None:
    """The first calls after the start have what was saved up."""
    assert spent(RetryBudget(FakeClock())) == LARGEST_BALANCE


def test_calls_earn_their_share() -> None:
    """At a ratio of a fifth, five calls pay for one further attempt."""
    budget = RetryBudget(FakeClock(), ratio=0.2)
    spent(budget)
    for _ in range(50):
        budget.earn()

    assert spent(budget) in {9, 10}


def test_ten_a_second_are_free() -> None:
    """Time refills it at any traffic, up to the bound."""
    clock = FakeClock()
    budget = RetryBudget(clock, ratio=0)
    spent(budget)
    clock.advance(1.0)
    assert spent(budget) == 10
    clock.advance(1e6)

    assert spent(budget) == LARGEST_BALANCE
