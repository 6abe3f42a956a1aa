"""What a call is inside the router, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from first_core.domain.fair_queue import Priority
from first_core.types import ANYONE, Principal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.domain.admission import Progress
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
    session_key: str = ""
    wait_budget_s: float | None = None
    """Longest wait for room or a cold model; `None`: the settings decide."""
    priority: Priority = Priority.INTERACTIVE
    continues: bool = True
    """Whether a broken stream may go on elsewhere."""
    principal: Principal = ANYONE
    """Who calls."""
    hops: tuple[str, ...] = ()
    """Gateways that the call has passed, the first one first."""
    hop_budget: int | None = None
    """Most gateways that it may pass, those in `hops` included; `None`: nobody said."""

    @property
    def is_relayed(self) -> bool:
        """Whether another gateway sent it, which does the rescue and knows what to ask next."""
        return bool(self.hops)

    def may_go(self, via: tuple[str, ...]) -> bool:
        """Tell whether it may go to an endpoint behind these gateways: no loop, within budget."""
        if not self.hops:
            return True
        budget = self.hop_budget
        within = budget is None or len(self.hops) + len(via) <= budget
        return within and not set(via).intersection(self.hops)


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
    continuation_count: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """One whole answer with all that is known of it."""

    answer: Answer
    head: Head
    trailer: Trailer


class AnswerWriter(Protocol):
    """Takes a streamed answer on its way to the client. Returning late slows the upstream down."""

    async def progress(self, progress: Progress) -> None:
        """Take a word on why the call still waits; only before the head."""

    async def head(self, head: Head) -> None:
        """Take the head; once, right before the first data."""

    async def data(self, data: bytes) -> None:
        """Take one or more whole events."""
