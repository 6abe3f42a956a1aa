"""What is known of a call when it has ended, and the closed sets that describe it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from first_core.errors import BackendError, CallerError, CapacityError, FirstError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from first_core.types import EndpointId, Operation, Usage

CANCELLED: Final = "CANCELLED"
"""`error_reason` of a call whose client left."""

UNKNOWN_MODEL: Final = "unknown"
"""`requested_model` of a call whose model is not in the catalog."""

UNKNOWN_REASON: Final = "UNKNOWN"
"""Stands in metrics for a reason that is none of the error tree's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One ended call. Never holds its prompt, its answer or a credential."""

    request_id: str
    """Id of the request that brought it."""
    operation: Operation
    """What was asked."""
    requested_model: str
    """The model that was asked for, if the catalog has it, else `UNKNOWN_MODEL`: it becomes a
    label, and callers can invent names without end."""
    answered_model: str = ""
    """The model that the answer names; empty: there was no answer."""
    endpoint: EndpointId | None = None
    """Where the last attempt went; `None`: there was none."""
    attempt_count: int = 0
    """Attempts that were begun."""
    streamed: bool = False
    """Whether a stream was asked for."""
    error_reason: str = ""
    """Empty when the call ended well, else a name of `first.v1.ErrorReason` without its prefix, or
    `CANCELLED` when the client left."""
    start_time: float
    """When it was admitted, in seconds since the Unix epoch."""
    duration_s: float
    """From `start_time` to the end of the answer, in seconds."""
    first_chunk_s: float | None = None
    """From `start_time` to the first byte of the answer, in seconds; `None`: none came."""
    chunk_count: int = 0
    """Chunks of a streamed answer that reached the client."""
    usage: Usage | None = None
    """Tokens as the upstream told them; `None`: it told none."""
    finish_reasons: tuple[str, ...] = ()
    """Why each choice ended, in order, as the upstream told."""


def error_class(reason: str) -> str:
    """Return who is at fault: caller, capacity, backend, internal or cancelled.

    Args:
        reason: A reason, not empty. One that is not known is a fault of ours: internal.
    """
    return ERROR_CLASSES.get(reason, "internal")


def reason_label(reason: str) -> str:
    """Return `reason`, or `UNKNOWN_REASON` if it is none of the closed set."""
    return reason if reason in ERROR_CLASSES else UNKNOWN_REASON


def _class_of(error: type[FirstError]) -> str:
    if issubclass(error, CallerError):
        return "caller"
    if issubclass(error, CapacityError):
        return "capacity"
    return "backend" if issubclass(error, BackendError) else "internal"


def _tree(root: type[FirstError]) -> Iterator[type[FirstError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


ERROR_CLASSES: Final[dict[str, str]] = {
    **{error.reason: _class_of(error) for error in _tree(FirstError)},
    "INTERNAL": "internal",
    CANCELLED: "cancelled",
}
"""Class of each reason, read from the error tree."""
