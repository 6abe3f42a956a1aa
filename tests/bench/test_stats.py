"""The arithmetic of the bench."""

from __future__ import annotations

import math

from bench import stats


def test_percentile_is_a_value_that_was_measured():
    """Nearest rank: no interpolation between two samples."""
    values = [5.0, 1.0, 3.0, 2.0, 4.0]

    assert stats.percentile(values, 0.5) == 3.0
    assert stats.percentile(values, 0.99) == 5.0
    assert stats.percentile(values, 0.0) == 1.0


def test_percentile_of_nothing_is_not_a_number():
    """A window without an answer has no latency, rather than a good one."""
    assert math.isnan(stats.percentile([], 0.5))


def test_percentile_of_many_leaves_out_the_last_one_in_hundred():
    """p99 of 1 to 200 is the 198th."""
    assert stats.percentile([float(n) for n in range(1, 201)], 0.99) == 198.0


def test_spread_ignores_rounds_without_a_number():
    """NaN of one round does not spoil the median of the others."""
    assert stats.spread([math.nan, 2.0, 4.0, 3.0]) == stats.Spread(3.0, 2.0, 4.0)
    assert stats.spread([math.nan]) is None
    assert stats.spread([]) is None


def test_ratios_pair_within_a_round():
    """A machine that gets twice as slow in one round does not change the ratio."""
    rounds = [
        {"nginx": {"cpu_us": 10.0}, "serve": {"cpu_us": 20.0}},
        {"nginx": {"cpu_us": 20.0}, "serve": {"cpu_us": 40.0}},
    ]

    assert stats.ratios(rounds, "serve", "nginx", "cpu_us") == [2.0, 2.0]


def test_ratios_leave_out_rounds_in_which_either_failed():
    """A missing partner is no partner from another round."""
    rounds = [
        {"nginx": {"cpu_us": 10.0}, "serve": {"cpu_us": 20.0}},
        {"serve": {"cpu_us": 40.0}},
        {"nginx": {"cpu_us": 10.0}, "serve": {"calls_per_s": 1.0}},
    ]

    assert stats.ratios(rounds, "serve", "nginx", "cpu_us") == [2.0]


def test_ratios_to_nothing_are_not_numbers():
    """A base of zero is a failed measurement, not an endless cost."""
    rounds = [{"nginx": {"cpu_us": 0.0}, "serve": {"cpu_us": 20.0}}]

    assert math.isnan(stats.ratios(rounds, "serve", "nginx", "cpu_us")[0])


def test_differences_pair_within_a_round():
    """Added latency is what a system adds to the direct way of the same round."""
    rounds = [
        {"direct": {"p50_ms": 1.0}, "serve": {"p50_ms": 1.5}},
        {"direct": {"p50_ms": 3.0}, "serve": {"p50_ms": 3.5}},
    ]

    assert stats.differences(rounds, "serve", "direct", "p50_ms") == [0.5, 0.5]
