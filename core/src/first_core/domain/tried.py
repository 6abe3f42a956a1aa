"""Which endpoints have failed in one call, and which of them may be asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.domain.faults import is_silence, pause_s

if TYPE_CHECKING:
    from first_core.domain.catalog import Endpoint
    from first_core.errors import FirstError


class Tried:
    """The endpoints that failed in one call, with how each failed last."""

    def __init__(self) -> None:
        self._errors: dict[Endpoint, FirstError] = {}
        self._again_count = 0
        self.last: FirstError | None = None
        """The newest failure; `None`: nothing was tried."""

    def __contains__(self, endpoint: Endpoint) -> bool:
        return endpoint in self._errors

    def note(self, endpoint: Endpoint, error: FirstError) -> None:
        """Keep a failure."""
        self._again_count += endpoint in self._errors
        self._errors[endpoint] = self.last = error

    def soonest(self, mean_s: float) -> tuple[Endpoint, float] | None:
        """Return who may be asked again first, and after how many seconds; `None`: nobody.

        An endpoint that stayed silent is never asked again.

        Args:
            mean_s: Mean of the first wait where the endpoint named none.
        """
        pauses = {
            endpoint: pause_s(error, self._again_count, mean_s)
            for endpoint, error in self._errors.items()
            if not is_silence(error) and not endpoint.is_gone
        }
        return min(pauses.items(), key=lambda item: item[1], default=None)
