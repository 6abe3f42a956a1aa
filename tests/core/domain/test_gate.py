"""The gate of one endpoint."""

from __future__ import annotations

from first_core.domain.bounds import FixedBound
from first_core.domain.gate import Gate
from first_core.testing.clock import FakeClock


class Caller:
    """One that waits."""

    def __init__(self, *, wants: bool = True, may: bool = True) -> None:
        self.wants, self.may, self.is_in = wants, may, False

    def may_enter(self, _gate: Gate) -> bool:
        return self.may

    def admit(self, _gate: Gate) -> bool:
        self.is_in = self.wants
        return self.wants


def gate(limit: int = 1) -> Gate:
    return Gate(FakeClock(), FixedBound(limit), 10)


def test_who_no_longer_wants_makes_way() -> None:
    """A place that is refused goes to the next one, and nobody is counted twice."""
    one = gate()
    one.enter()
    gone, next_one = Caller(wants=False), Caller()
    one.queue.push(gone, tenant="t")
    one.queue.push(next_one, tenant="t")
    one.leave()

    assert next_one.is_in
    assert one.in_flight_count == 1


def test_nobody_goes_in_while_the_endpoint_takes_none() -> None:
    """Who is next keeps the place until the endpoint takes calls."""
    one, caller = gate(), Caller(may=False)
    one.queue.push(caller, tenant="t")
    one.admit_waiting()
    assert not caller.is_in
    caller.may = True
    one.admit_waiting()

    assert caller.is_in


def test_a_larger_bound_lets_in_who_waits() -> None:
    """New settings count for those that queue already."""
    one, caller = gate(), Caller()
    one.enter()
    one.queue.push(caller, tenant="t")
    one.retune(gate(2))

    assert caller.is_in
    assert one.in_flight_count == 2


def test_a_smaller_bound_throws_nobody_out() -> None:
    """Who is in stays in; the next one waits until there is room."""
    one, caller = gate(3), Caller()
    for _ in range(3):
        one.enter()
    one.retune(gate(1))
    one.queue.push(caller, tenant="t")
    one.leave()
    assert not caller.is_in
    one.leave()
    one.leave()

    assert caller.is_in
