"""Decides which endpoints a call may try, and in which order. Pure: no clock, no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.errors import EndpointColdError, NotFoundError, UnsupportedError
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.domain.catalog import Endpoint
    from first_core.types import Operation, Pin

COLD_RETRY_AFTER_S: Final = 10.0
"""What `Retry-After` says when nobody knows the wait. Local servers are seen again within 2 s, a
large model loads for minutes; a client that comes back after 10 s costs nothing."""


def candidates(
    model: str, operation: Operation, pin: Pin, endpoints: Sequence[Endpoint]
) -> list[Endpoint]:
    """Return the endpoints to try, in order: the ready ones as configured.

    Raises:
        NotFoundError: No endpoint has the model, or none that fits the pin.
        UnsupportedError: None of them can do the operation.
        EndpointColdError: None of them is ready.
    """
    if not endpoints:
        raise NotFoundError(
            f"the model {model!r} does not exist; GET /v1/models lists those that do",
            metadata={"model": model},
        )
    if pin.cluster or pin.framework:
        endpoints = [e for e in endpoints if _fits(e, pin)]
        if not endpoints:
            raise _not_there(model, pin)
    able = [e for e in endpoints if operation in e.report.operations]
    if not able:
        name = operation.name.lower()
        raise UnsupportedError(
            f"the model {model!r} does not offer {operation.path}",
            metadata={"model": model, "operation": name},
        )
    ready = [e for e in able if e.report.state is EndpointState.READY]
    if not ready:
        raise _cold(model, able)
    return ready


def _fits(endpoint: Endpoint, pin: Pin) -> bool:
    return pin.cluster in ("", endpoint.id.cluster) and pin.framework in (
        "",
        endpoint.id.framework,
    )


def _not_there(model: str, pin: Pin) -> NotFoundError:
    place = "/".join(part for part in (pin.cluster, pin.framework) if part)
    return NotFoundError(
        f"the model {model!r} is not served on {place!r}",
        metadata={"model": model, "cluster": pin.cluster, "framework": pin.framework},
    )


def _cold(model: str, endpoints: Sequence[Endpoint]) -> EndpointColdError:
    waits = [e.report.expected_wait_s for e in endpoints if e.report.expected_wait_s is not None]
    state = endpoints[0].report.state.name.lower()
    return EndpointColdError(
        f"the model {model!r} is not ready: its endpoint is {state}",
        metadata={"model": model, "state": state},
        retry_after_s=min(waits, default=COLD_RETRY_AFTER_S),
    )
