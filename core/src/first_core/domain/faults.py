"""What a failed attempt means: for its endpoint, and for what may be tried next."""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Final

from first_core.errors import (
    BackendError,
    BackendTimeoutError,
    CallerError,
    CapacityError,
    FirstError,
    UpstreamRejectedError,
)

if TYPE_CHECKING:
    from first_core.domain.catalog import Endpoint

LONGEST_REST_S: Final = 60.0
"""An upstream that asks for a longer rest is asked again after this: such figures are often wrong,
and one call a minute costs nothing."""

_TOO_LONG: Final = re.compile(
    r"maximum context length|context_length_exceeded|exceeds? the (available )?context"
    r"|prompt is too long|exceed_context_size|longer than the maximum model length",
    re.IGNORECASE,
)
"""How upstreams say that a prompt is too long: OpenAI and vLLM, OpenAI's code, llama.cpp,
Anthropic, llama.cpp's type, older vLLM."""


def is_prompt_too_long(error: FirstError) -> bool:
    """Tell whether the upstream refused the prompt for its length."""
    if not isinstance(error, UpstreamRejectedError) or error.upstream is None:
        return False
    said = error.upstream.body.decode("utf-8", "replace")
    return error.upstream.status in {400, 413, 422} and bool(
        _TOO_LONG.search(error.message) or _TOO_LONG.search(said)
    )


def is_silence(error: FirstError) -> bool:
    """Tell whether the endpoint did not answer in time; it is not asked again."""
    return isinstance(error, BackendTimeoutError)


def is_out_of_time(error: FirstError) -> bool:
    """Tell whether the whole call took longer than allowed, so that nothing more can be tried."""
    return isinstance(error, BackendTimeoutError) and error.metadata.get("bound") == "total"


def blame(
    endpoint: Endpoint, error: BaseException, now_s: float, *, is_probe: bool, is_hasty: bool
) -> None:
    """Note a failed attempt at its endpoint: only backend faults count against its health.

    Args:
        endpoint: Where it ran.
        error: How it ended.
        now_s: Monotonic time.
        is_probe: Whether it was the probe of a half-open breaker.
        is_hasty: Whether the caller allowed less time for the first chunk than the settings do.
            What a caller's own bounds cut short is no fault of the endpoint, or callers could
            keep others from it.
    """
    breaker = endpoint.breaker
    if isinstance(error, CapacityError) and error.retry_after_s:
        endpoint.resting_until_s = now_s + min(error.retry_after_s, LONGEST_REST_S)
    if isinstance(error, BackendError) and not _is_impatience(error, is_hasty=is_hasty):
        breaker.failed(is_probe=is_probe)
    elif isinstance(error, CallerError):
        breaker.succeeded()  # it answered: the fault is the caller's
    else:
        breaker.abandoned(is_probe=is_probe)


def _is_impatience(error: BackendError, *, is_hasty: bool) -> bool:
    if is_out_of_time(error):
        return True
    return is_hasty and is_silence(error) and error.metadata.get("bound") == "first_chunk"


def pause_s(error: FirstError, again_count: int, mean_s: float) -> float:
    """Return how long to wait before the same endpoint is asked again.

    Args:
        error: Why it failed.
        again_count: How often it has been asked again in this call, from 0.
        mean_s: Mean of the first wait. It doubles, and is drawn from half to one and a half of it,
            so that calls that failed together do not come back together.
    """
    if error.retry_after_s is not None:
        return error.retry_after_s
    return mean_s * float(2**again_count) * random.uniform(0.5, 1.5)  # noqa: S311 - spread, no secret
