"""The fair queue, and what it costs."""

from __future__ import annotations

import math

import pytest

from first_core.domain.fair_queue import FairQueue, Priority, Ticket


def drain(queue: FairQueue[str]) -> str:
    found = ""
    while (ticket := queue.pop()) is not None:
        found += ticket.item
    return found


def test_equal_tenants_take_turns() -> None:
    """However many one tenant queued before, the other one's calls go every second time."""
    queue: FairQueue[str] = FairQueue(100)
    for _ in range(6):
        queue.push("a", tenant="a")
    for _ in range(3):
        queue.push("b", tenant="b")

    assert drain(queue)[:6].count("b") == 3


@pytest.mark.parametrize("weight", [0.5, 1.0, 3.0])
def test_shares_follow_weights(weight: float) -> None:
    """Of the first calls served a tenant has its weight's share."""
    queue: FairQueue[str] = FairQueue(1000)
    for _ in range(100):
        queue.push("a", tenant="a", weight=weight)
        queue.push("b", tenant="b")
    share = weight / (1 + weight)

    assert drain(queue)[:80].count("a") == pytest.approx(80 * share, abs=1)


def test_a_backlog_of_batch_costs_nothing_among_interactive_calls() -> None:
    """Classes share apart: who queued much batch work is no later with an interactive call."""
    queue: FairQueue[str] = FairQueue(1000)
    for _ in range(100):
        queue.push("x", tenant="a", priority=Priority.BATCH)
    for _ in range(3):
        queue.push("b", tenant="b")
        queue.push("a", tenant="a")

    assert drain(queue)[:4].count("a") == 2


def test_who_was_away_saves_nothing_up() -> None:
    """A tenant that comes late shares from then on; it is owed nothing for before."""
    queue: FairQueue[str] = FairQueue(1000)
    for _ in range(50):
        queue.push("a", tenant="a")
    for _ in range(40):
        queue.pop()
    for _ in range(10):
        queue.push("b", tenant="b")

    assert drain(queue)[:10].count("a") == 5


def test_leaving_is_final_and_safe_to_repeat() -> None:
    """A place that was given up is never served; the count is right."""
    queue: FairQueue[str] = FairQueue(10)
    tickets = [queue.push(name, tenant="t") for name in "abc"]
    queue.leave(tickets[0])
    queue.leave(tickets[0])

    assert len(queue) == 2
    assert queue.peek() == "b"
    assert queue.position(tickets[2]) == 2
    assert drain(queue) == "bc"


def test_nothing_grows_in_a_queue_that_is_never_empty() -> None:
    """Neither tickets that left nor tenants that were served stay behind."""
    queue: FairQueue[str] = FairQueue(10)
    queue.push("first", tenant="first")
    for number in range(5000):
        ticket = queue.push("x", tenant=str(number))
        if number % 2:
            queue.leave(ticket)
        else:
            queue.pop()

    assert len(queue._heap) < 50
    assert len(queue._finish_tags) < 100


def test_operations_take_logarithmic_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A push or a pop among n tickets compares O(log n) of them; leaving compares none, amortised
    over the clearing up."""
    count = 0
    compare = Ticket.__lt__

    def counted(one: Ticket[int], other: Ticket[int]) -> bool:
        nonlocal count
        count += 1
        return compare(one, other)

    monkeypatch.setattr(Ticket, "__lt__", counted)
    for size in (100, 1000, 10_000):
        queue: FairQueue[int] = FairQueue(size)
        count = 0
        tickets = [queue.push(n, tenant=str(n % 7), weight=1 + n % 3) for n in range(size)]
        assert count <= size * math.log2(size)
        count = 0
        for ticket in tickets[::2]:
            queue.leave(ticket)
        assert count <= 2 * size
        count = 0
        while queue.pop():
            pass

        assert count <= 2 * size * math.log2(size)
