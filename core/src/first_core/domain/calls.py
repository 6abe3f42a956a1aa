"""What a call is inside the router, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.plugin import Answer
    from first_core.telemetry import TraceContext
    from first_core.types import EndpointId, Operation, Pin, Usage


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """One call as a client sent it."""

    operation: Operation
    body: bytes = field(repr=False)
    content_type: str
    model: str
    """The model to ask for; empty: the body's own."""
    pin: Pin
    headers: Mapping[str, str] = field(repr=False)
    request_id: str
    trace: TraceContext | None
    first_chunk_timeout_s: float | None
    time_remaining_s: float | None


@dataclass(frozen=True, slots=True)
class Head:
    """Who answers."""

    endpoint: EndpointId
    attempt_count: int
    content_type: str


@dataclass(frozen=True, slots=True)
class Trailer:
    """What a call used, and how long it took. `usage` is `None` when the upstream told none."""

    usage: Usage | None
    first_chunk_s: float | None
    duration_s: float
    finish_reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One whole answer with all that is known of it."""

    answer: Answer
    head: Head
    trailer: Trailer


class AnswerWriter(Protocol):
    """Takes a streamed answer on its way to the client. Returning late slows the upstream down."""

    async def head(self, head: Head) -> None:
        """Take the head; once, right before the first data."""

    async def data(self, data: bytes) -> None:
        """Take one or more whole events."""
