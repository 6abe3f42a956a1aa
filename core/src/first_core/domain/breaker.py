"""Keeps calls away from an endpoint that fails, and lets real calls find out when it is back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from first_core.clock import Clock

FAULTS_TO_OPEN: Final = 3
"""Backend faults in a row that open the breaker. One or two happen to healthy servers."""

WINDOW_S: Final = 10.0
"""Length of the window in which `FAULT_RATIO_TO_OPEN` is measured, in seconds."""

FAULT_RATIO_TO_OPEN: Final = 0.5
"""Share of faults in the window that opens the breaker as well, from `MIN_SAMPLES` calls on."""

MIN_SAMPLES: Final = 10
"""Least calls in the window that say anything about a share."""

FIRST_PAUSE_S: Final = 2.0
"""Pause before the first probe: an outage of seconds must not cost minutes."""

LONGEST_PAUSE_S: Final = 15.0
"""The pause doubles with each failed probe up to this. A probe is one call, and what it finds
failing is answered elsewhere, so asking four times a minute costs little."""


class Breaker:
    """The breaker of one endpoint: closed, open, or half-open while one call probes.

    Only backend faults of real calls count; a green health check closes nothing.

    Args:
        clock: The time.
    """

    __slots__ = (
        "_clock",
        "_fault_count",
        "_faults_in_row",
        "_open_until_s",
        "_pause_s",
        "_probing",
        "_total_count",
        "_window_end_s",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._faults_in_row = 0
        self._fault_count = 0
        self._total_count = 0
        self._window_end_s = 0.0
        self._pause_s = 0.0
        self._open_until_s = 0.0
        self._probing = False

    @property
    def is_open(self) -> bool:
        """Whether it is open or half-open: the last calls failed and none has succeeded since."""
        return self._pause_s > 0

    @property
    def opened_until_s(self) -> float:
        """Monotonic time of the next probe; the panic rule takes the endpoint with the least."""
        return self._open_until_s

    def allows(self) -> bool:
        """Return whether a call may go now; asking changes nothing."""
        if self._pause_s == 0:
            return True
        return not self._probing and self._clock.monotonic() >= self._open_until_s

    def begin(self) -> bool:
        """Note that a call goes.

        Returns:
            Whether it is the probe of the half-open state: `failed` or `abandoned` must be told.
        """
        if self._pause_s == 0 or not self.allows():
            return False
        self._probing = True
        return True

    def answers(self) -> None:
        """Note that the endpoint began to answer, which a stream may go on doing for hours."""
        if self._pause_s > 0:
            self._close()

    def succeeded(self) -> None:
        """Note a call that the endpoint answered, whatever the answer said: it is back."""
        self._faults_in_row = 0
        if self._pause_s > 0:
            self._close()
        self._count(fault=False)

    def failed(self, *, is_probe: bool = False) -> None:
        """Note a backend fault."""
        self._faults_in_row += 1
        self._count(fault=True)
        if self._pause_s > 0:
            # Calls that began before it opened say nothing new; a probe does.
            if is_probe:
                self._open(min(self._pause_s * 2, LONGEST_PAUSE_S))
        elif self._faults_in_row >= FAULTS_TO_OPEN or self._is_flaky():
            self._open(FIRST_PAUSE_S)

    def abandoned(self, *, is_probe: bool = False) -> None:
        """Note a call that ended without a verdict: its client left, or there was no room."""
        if is_probe:
            self._probing = False

    def _close(self) -> None:
        self._pause_s = 0.0
        self._probing = False
        self._faults_in_row = 0
        self._start_window()

    def _open(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._open_until_s = self._clock.monotonic() + pause_s
        self._probing = False

    def _is_flaky(self) -> bool:
        return (
            self._total_count >= MIN_SAMPLES
            and self._fault_count >= FAULT_RATIO_TO_OPEN * self._total_count
        )

    def _count(self, *, fault: bool) -> None:
        if self._clock.monotonic() >= self._window_end_s:
            self._start_window()
        self._total_count += 1
        self._fault_count += fault

    def _start_window(self) -> None:
        self._window_end_s = self._clock.monotonic() + WINDOW_S
        self._total_count = self._fault_count = 0
