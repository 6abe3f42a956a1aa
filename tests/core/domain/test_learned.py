"""What answers teach about an endpoint."""

from __future__ import annotations

import pytest

from first_core.domain.learned import SAMPLE_COUNT, Learned


def test_nothing_is_known_at_first() -> None:
    """No sample, no mean; few samples, no percentile."""
    learned = Learned()
    assert learned.first_chunk_s is None
    for _ in range(19):
        learned.add(1.0)

    assert learned.percentile(0.95) is None


def test_the_mean_follows() -> None:
    """Twenty newer answers outweigh the old ones."""
    learned = Learned()
    for value in (1.0,) * 50 + (3.0,) * 30:
        learned.add(value)

    assert learned.first_chunk_s == pytest.approx(3.0, abs=0.1)


def test_the_percentile_is_that_of_the_last_samples() -> None:
    """Old samples are forgotten, and memory is bounded."""
    learned = Learned()
    for value in range(10 * SAMPLE_COUNT):
        learned.add(float(value))

    assert len(learned._samples) == SAMPLE_COUNT
    assert learned.percentile(0.95) == 9 * SAMPLE_COUNT + int(0.95 * SAMPLE_COUNT)
