"""The built-in routing policies."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pytest

from first_core.plugin.policy import RouteRequest
from first_core.plugin.registers import PolicyRegister
from first_core.policies.affinity import AffinityPolicy
from first_core.policies.load import LatencyPolicy, LeastLoadedPolicy
from first_core.policies.plugin import first_register_policies
from first_core.policies.tiers import TiersPolicy
from first_core.policies.turns import RoundRobinPolicy, WeightedPolicy
from first_core.testing.scripted import ready
from first_core.types import EndpointLoad, EndpointState, Operation

REQUEST = RouteRequest(Operation.CHAT, "m")


@dataclass(eq=False)
class One:
    """A candidate as a test wants it."""

    order: int
    report: Any = field(default_factory=ready)
    weight: float = 1.0
    outstanding_count: int = 0
    queued_count: int = 0
    first_chunk_s: float | None = None


def one(order: int, **fields: Any) -> One:
    mine = {k: fields.pop(k) for k in list(fields) if k in One.__dataclass_fields__}
    return One(order, replace(ready(cluster=f"c{order}"), **fields), **mine)


def key(value: object) -> RouteRequest:
    return RouteRequest(Operation.CHAT, "m", str(value).encode())


def all_policies() -> dict[str, Any]:
    register = PolicyRegister("policy")
    first_register_policies(register)
    return register.offers()


def test_first_goes_through_five_tiers() -> None:
    """Running, then queued, then free nodes, then online, then what is configured."""
    tiers = [
        one(5, state=EndpointState.READY, outstanding_count=99),
        one(4, state=EndpointState.QUEUED),
        one(3, state=EndpointState.COLD, free_node_count=2),
        one(2, state=EndpointState.COLD, free_node_count=0),
        one(1, state=EndpointState.DOWN),
    ]
    policy = TiersPolicy()
    for place in range(5):
        assert policy.choose(REQUEST, tiers[::-1][: 5 - place]) is tiers[place]


def test_first_takes_the_least_outstanding_of_a_tier() -> None:
    """Within a tier the fewest calls win, then the configured order."""
    a, b, c = one(0, outstanding_count=2), one(1, outstanding_count=1), one(2, outstanding_count=1)

    assert TiersPolicy().choose(REQUEST, [a, b, c]) is b


def test_least_loaded_believes_the_engine() -> None:
    """The engine's own figures count, those that wait in it four times."""
    a = one(0, load=EndpointLoad(running_count=3, waiting_count=1))
    b = one(1, load=EndpointLoad(running_count=6, waiting_count=0))

    assert LeastLoadedPolicy().choose(REQUEST, [a, b]) is b


def test_least_loaded_counts_own_calls_that_the_engine_has_not_told_yet() -> None:
    """Figures are up to a second old: our own calls count where they are more."""
    a = one(0, load=EndpointLoad(0, 0), outstanding_count=5)
    b = one(1, load=EndpointLoad(3, 0))

    assert LeastLoadedPolicy().choose(REQUEST, [a, b]) is b


def test_least_loaded_looks_at_the_cache() -> None:
    """Among equals the one with the emptier cache."""
    a, b = one(0, load=EndpointLoad(1, 0, 0.9)), one(1, load=EndpointLoad(1, 0, 0.1))

    assert LeastLoadedPolicy().choose(REQUEST, [a, b]) is b


def test_weighted_is_exact_over_a_cycle() -> None:
    """Each endpoint gets exactly its share of every full cycle."""
    policy = WeightedPolicy()
    candidates = [one(0, weight=5.0), one(1, weight=2.0), one(2, weight=1.0)]
    for _ in range(3):
        counts = Counter(policy.choose(REQUEST, candidates).order for _ in range(8))
        assert counts == {0: 5, 1: 2, 2: 1}


def test_weighted_is_smooth() -> None:
    """The small shares lie among the large one's, not after it."""
    policy = WeightedPolicy()
    candidates = [one(0, weight=5.0), one(1, weight=1.0), one(2, weight=1.0)]
    turns = [policy.choose(REQUEST, candidates).order for _ in range(7)]

    assert turns == [0, 0, 1, 0, 2, 0, 0]


def test_weighted_keeps_shares_when_one_is_away_for_a_call() -> None:
    """Who is full or failed for a moment neither gains nor loses by it in the long run."""
    policy = WeightedPolicy()
    a, b, c = one(0), one(1), one(2)
    counts: Counter[int] = Counter()
    for turn in range(300):
        found = [a, b, c] if turn % 3 else [b, c]
        counts[policy.choose(REQUEST, found).order] += 1

    assert counts[0] == pytest.approx(200 / 3, abs=2)  # a third of those it was there for


def test_round_robin_takes_turns_whatever_the_weights() -> None:
    """Each in order, once."""
    policy = RoundRobinPolicy()
    candidates = [one(0, weight=9.0), one(1), one(2)]

    assert [policy.choose(REQUEST, candidates).order for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_latency_prefers_the_quick() -> None:
    """The least learned time to the first chunk wins; own calls before ours count."""
    slow, quick = one(0, first_chunk_s=0.5), one(1, first_chunk_s=0.2)
    policy = LatencyPolicy()
    assert policy.choose(REQUEST, [slow, quick]) is quick
    quick.outstanding_count = 20

    assert policy.choose(REQUEST, [slow, quick]) is slow


def test_latency_tries_the_unknown() -> None:
    """An endpoint that has not answered yet is taken for quick."""
    known, new = one(0, first_chunk_s=0.2), one(1)

    assert LatencyPolicy().choose(REQUEST, [known, new]) is new


@pytest.mark.parametrize("weights", [(1.0,) * 8, (1.0, 2.0) * 4], ids=["even", "uneven"])
def test_affinity_is_faithful(weights: tuple[float, ...]) -> None:
    """The same key goes to the same endpoint, in another process and another order too."""
    candidates = [one(i, weight=w) for i, w in enumerate(weights)]
    first = {k: AffinityPolicy().choose(key(k), candidates).order for k in range(50)}
    again = AffinityPolicy()

    assert {k: again.choose(key(k), candidates[::-1]).order for k in range(50)} == first


@pytest.mark.parametrize("weights", [(1.0,) * 8, (1.0, 2.0) * 4], ids=["even", "uneven"])
def test_affinity_moves_only_the_keys_of_who_left(weights: tuple[float, ...]) -> None:
    """When an endpoint leaves, every other key stays where it was."""
    policy = AffinityPolicy()
    candidates = [one(i, weight=w) for i, w in enumerate(weights)]
    before = {k: policy.choose(key(k), candidates).order for k in range(500)}
    left = [c for c in candidates if c.order != 3]
    after = {k: policy.choose(key(k), left).order for k in range(500)}

    assert {k for k in before if before[k] != after[k]} == {k for k in before if before[k] == 3}


def test_affinity_spreads_by_weight() -> None:
    """An endpoint's share of the keys is its share of the weights."""
    policy = AffinityPolicy()
    candidates = [one(0, weight=1.0), one(1, weight=1.0), one(2, weight=2.0)]
    counts = Counter(policy.choose(key(k), candidates).order for k in range(8000))

    assert counts[0] == pytest.approx(2000, rel=0.1)
    assert counts[2] == pytest.approx(4000, rel=0.1)


def test_affinity_spreads_evenly() -> None:
    """Each of eight even endpoints gets an eighth of the keys."""
    policy = AffinityPolicy()
    candidates = [one(i) for i in range(8)]
    counts = Counter(policy.choose(key(k), candidates).order for k in range(8000))

    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_affinity_bounds_load() -> None:
    """A key that everybody uses does not pile up: nobody gets more than 1.25 of the mean."""
    policy = AffinityPolicy()
    candidates = [one(i) for i in range(4)]
    for _ in range(100):
        policy.choose(key("hot"), candidates).outstanding_count += 1

    assert max(c.outstanding_count for c in candidates) <= 1.25 * 101 / 4 + 1


def test_affinity_without_key_goes_to_the_least_loaded() -> None:
    """Nothing is gained anywhere, so load decides."""
    a, b = one(0, outstanding_count=3), one(1)

    assert AffinityPolicy().choose(REQUEST, [a, b]) is b


@pytest.mark.parametrize("name", all_policies())
def test_every_policy_prefers_what_runs(name: str) -> None:
    """No policy sends a call to an endpoint that is cold while one is ready."""
    policy = all_policies()[name]()
    cold, warm = one(0, state=EndpointState.COLD), one(1, outstanding_count=50)

    assert all(policy.choose(key(k), [cold, warm]) is warm for k in range(20))


@pytest.mark.parametrize("name", all_policies())
def test_every_policy_explains_without_changing(name: str) -> None:
    """Asking why changes no later choice."""
    asked, silent = all_policies()[name](), all_policies()[name]()
    candidates = [one(i, weight=i + 1.0) for i in range(3)]
    for k in range(20):
        assert all(asked.explain(key(k), c) for c in candidates)
        assert asked.choose(key(k), candidates) is silent.choose(key(k), candidates)


def test_weighted_never_starves() -> None:
    """A small share comes about as often as it should, without long gaps."""
    policy = WeightedPolicy()
    candidates = [one(0, weight=0.9), one(1, weight=0.1)]
    turns = [i for i in range(200) if policy.choose(REQUEST, candidates).order == 1]

    assert all(later - earlier in {9, 10, 11} for earlier, later in pairwise(turns))
