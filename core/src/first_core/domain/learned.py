"""What an endpoint's answers have taught: expected times, with bounded memory."""

from __future__ import annotations

from typing import Final

WEIGHT: Final = 0.1
"""Weight of the newest sample in the moving mean: about the last twenty calls count."""

SAMPLE_COUNT: Final = 64
"""Samples kept for a percentile. Enough for a p95 to within a few percent points; sorting them
takes 3 µs, and happens when a percentile is asked for."""

LEAST_SAMPLES: Final = 20
"""Fewer samples say nothing about a p95."""


class Learned:
    """Times of one endpoint, in seconds, from calls that ended well."""

    __slots__ = ("_next", "_samples", "first_chunk_s")

    def __init__(self) -> None:
        self.first_chunk_s: float | None = None
        """Moving mean of the time to the first chunk, or to a whole answer; `None`: no sample."""
        self._samples: list[float] = []
        self._next = 0

    def add(self, first_chunk_s: float) -> None:
        """Take one sample."""
        mean = self.first_chunk_s
        self.first_chunk_s = (
            first_chunk_s if mean is None else mean + WEIGHT * (first_chunk_s - mean)
        )
        if len(self._samples) < SAMPLE_COUNT:
            self._samples.append(first_chunk_s)
        else:
            self._samples[self._next] = first_chunk_s
            self._next = (self._next + 1) % SAMPLE_COUNT

    def percentile(self, ratio: float) -> float | None:
        """Return a percentile of the last samples, `ratio` from 0 to 1; `None`: too few."""
        if len(self._samples) < LEAST_SAMPLES:
            return None
        ordered = sorted(self._samples)
        return ordered[min(len(ordered) - 1, int(ratio * len(ordered)))]
