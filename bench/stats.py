"""The arithmetic of the table: percentiles, and rounds compared pair by pair."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Sample = Mapping[str, float]
"""Metric to value, of one system in one round."""

Round = Mapping[str, Sample]
"""System to sample. A system that failed in this round is absent."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of the rounds, with the lowest and the highest of them."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], ratio: float) -> float:
    """Nearest-rank percentile, `ratio` from 0 to 1; NaN of nothing.

    Nearest rank, since interpolation would invent a value between two tail samples.
    """
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(ratio * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> Spread | None:
    """Median, min and max; None where no round has a number."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return None
    return Spread(statistics.median(known), min(known), max(known))


def values(rounds: Sequence[Round], system: str, metric: str) -> list[float]:
    """The metric in each round that has it."""
    return [
        round_[system][metric] for round_ in rounds if system in round_ and metric in round_[system]
    ]


def paired(
    rounds: Sequence[Round],
    system: str,
    base: str,
    metric: str,
    combine: Callable[[float, float], float],
) -> list[float]:
    """`combine(system, base)` of each round in which both were measured.

    Compared inside a round because the machine's speed drifts between rounds; a ratio of two
    medians would mix slots.
    """
    return [
        combine(round_[system][metric], round_[base][metric])
        for round_ in rounds
        if metric in round_.get(system, {}) and metric in round_.get(base, {})
    ]


def ratios(rounds: Sequence[Round], system: str, base: str, metric: str) -> list[float]:
    """`system / base`, round by round; NaN where the base is nothing."""
    return paired(rounds, system, base, metric, lambda a, b: a / b if b else math.nan)


def differences(rounds: Sequence[Round], system: str, base: str, metric: str) -> list[float]:
    """`system - base`, round by round."""
    return paired(rounds, system, base, metric, lambda a, b: a - b)
