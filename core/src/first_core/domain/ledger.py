"""What is known of a call so far: its spans, its times, its end."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Self

from first_core.domain.calls import Head, IncomingCall, Trailer
from first_core.errors import BackendError, CapacityError, FirstError
from first_core.telemetry import (
    CANCELLED,
    FIRST_ATTEMPT,
    FIRST_CLUSTER,
    FIRST_FRAMEWORK,
    FIRST_REQUEST_ID,
    FIRST_STREAMED,
    GEN_AI_OPERATION_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    UNKNOWN_MODEL,
    CallRecord,
    Span,
    SpanKind,
    Telemetry,
    attempt_span_name,
    genai_operation,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from first_core.clock import Clock
    from first_core.types import EndpointId, Usage

CALL_SPAN: Final = "first.v1.InferenceService/Call"
STREAM_SPAN: Final = "first.v1.InferenceService/StreamCall"
"""Names of the router's spans. Source: OpenTelemetry semantic conventions, "gRPC"."""

_log = logging.getLogger(__name__)


class Attempt:
    """The account of one attempt; ends with its context."""

    __slots__ = ("_answers", "_begin_s", "_ledger", "endpoint", "first_chunk_s", "number", "span")

    def __init__(
        self,
        ledger: Ledger,
        endpoint: EndpointId,
        number: int,
        span: Span,
        answers: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._answers = answers
        self._begin_s = ledger.elapsed_s()
        self.endpoint = endpoint
        self.number = number
        self.span = span
        self.first_chunk_s: float | None = None
        """From the attempt's begin to its first chunk, or to its whole answer, in seconds."""

    def first_chunk(self) -> None:
        """Note that the answer begins: from now on this attempt is the call's last one."""
        now_s = self._ledger.elapsed_s()
        self.first_chunk_s = now_s - self._begin_s
        self._answers()
        self._ledger.endpoint = self.endpoint
        if self._ledger.first_chunk_s is None:
            self._ledger.first_chunk_s = now_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ledger.attempt_ended(self, error)


class Ledger:
    """The account of one call, from admission to settlement.

    Args:
        incoming: The call.
        telemetry: Where spans and figures go.
        clock: The time.
        streamed: Whether a stream was asked for.
    """

    def __init__(
        self, incoming: IncomingCall, telemetry: Telemetry, clock: Clock, *, streamed: bool
    ) -> None:
        self._incoming = incoming
        self._telemetry = telemetry
        self._clock = clock
        self._streamed = streamed
        self._start_time = clock.time()
        self._start = clock.monotonic()
        self.endpoint: EndpointId | None = None
        self._error_reason = ""
        self._span = telemetry.span(
            STREAM_SPAN if streamed else CALL_SPAN, kind=SpanKind.SERVER, parent=incoming.trace
        )
        self.requested_model = UNKNOWN_MODEL
        self.attempt_count = 0
        self.first_chunk_s: float | None = None
        self.chunk_count = 0
        self.is_whole = False
        """Whether the client has got all of a streamed answer. Clients hang up as soon as they see
        its end, which is no cancelled call."""
        self.continuation_count = 0
        self.usage: Usage | None = None
        self.finish_reasons: tuple[str, ...] = ()
        telemetry.call_started(incoming.operation)

    @property
    def start_s(self) -> float:
        """Monotonic time of admission."""
        return self._start

    def elapsed_s(self) -> float:
        """Return the seconds since admission."""
        return self._clock.monotonic() - self._start

    @property
    def has_begun(self) -> bool:
        """Whether a byte of the answer has reached the client."""
        return self.first_chunk_s is not None

    def attempt(self, endpoint: EndpointId, answers: Callable[[], None]) -> Attempt:
        """Return the account of one more attempt, to be used as a context.

        Args:
            endpoint: Where it runs.
            answers: Called when its answer begins.
        """
        self.endpoint = endpoint
        self.attempt_count += 1
        span = self._telemetry.span(
            attempt_span_name(self._incoming.operation, endpoint.model),
            kind=SpanKind.CLIENT,
            parent=self._span.context,
            attributes=self._attributes(endpoint) if self._span.context.sampled else None,
        )
        return Attempt(self, endpoint, self.attempt_count, span, answers)

    def _attributes(self, endpoint: EndpointId) -> dict[str, str | int]:
        return {
            GEN_AI_OPERATION_NAME: genai_operation(self._incoming.operation),
            GEN_AI_REQUEST_MODEL: endpoint.model,
            FIRST_CLUSTER: endpoint.cluster,
            FIRST_FRAMEWORK: endpoint.framework,
            FIRST_ATTEMPT: self.attempt_count,
        }

    def attempt_ended(self, attempt: Attempt, error: BaseException | None) -> None:
        """Close the account of one attempt."""
        reason = self._reason(error) if error is not None else ""
        if error is None:
            self.describe(attempt.span)
        attempt.span.end(reason)
        self._telemetry.attempt_ended(attempt.endpoint, error_reason=reason)
        if isinstance(error, CapacityError | BackendError):
            self._log_failure(attempt, error)

    def _reason(self, error: BaseException) -> str:
        if self.is_whole and isinstance(error, asyncio.CancelledError):
            return ""
        return _reason(error)

    def _log_failure(self, attempt: Attempt, error: FirstError) -> None:
        _log.warning(
            "attempt_failed",
            extra={
                "request_id": self._incoming.request_id,
                "endpoint": str(attempt.endpoint),
                "attempt": attempt.number,
                "error_reason": error.reason,
                # What an upstream says may quote the prompt.
                "error": error.message if error.upstream is None else None,
                "cause": repr(error.__cause__) if error.__cause__ else None,
            },
        )

    def fell_back(self, error: FirstError) -> None:
        """Note that a fallback model failed too."""
        _log.warning(
            "fallback_failed",
            extra={"request_id": self._incoming.request_id, "error_reason": error.reason},
        )

    def failed(self, error: BaseException) -> None:
        """Note that the call ends in an error, or that its client left; tell the error of it."""
        self._error_reason = self._reason(error)
        last = self.endpoint
        if last is not None and isinstance(error, FirstError):
            # Not the replica: its name may be an address.
            error.metadata["last_endpoint"] = f"{last.cluster}/{last.framework}/{last.model}"
            error.metadata["attempt_count"] = str(self.attempt_count)

    def settle(self, head: Head, trailer: Trailer) -> None:
        """Note whose answer it was, where a second one may have come in the same moment."""
        self.endpoint = head.endpoint
        self.usage, self.finish_reasons = trailer.usage, trailer.finish_reasons

    def trailer(self) -> Trailer:
        """Return what the client is told at the end."""
        return Trailer(
            self.usage,
            self.first_chunk_s,
            self.elapsed_s(),
            self.finish_reasons,
            self.continuation_count,
        )

    def close(self) -> CallRecord:
        """End the account: span, metrics, log line."""
        record = CallRecord(
            request_id=self._incoming.request_id,
            operation=self._incoming.operation,
            requested_model=self.requested_model,
            answered_model=self.endpoint.model if self.endpoint and self.has_begun else "",
            endpoint=self.endpoint,
            attempt_count=self.attempt_count,
            streamed=self._streamed,
            error_reason=self._error_reason,
            start_time=self._start_time,
            duration_s=self.elapsed_s(),
            first_chunk_s=self.first_chunk_s,
            chunk_count=self.chunk_count,
            usage=self.usage,
            finish_reasons=self.finish_reasons,
        )
        self.describe(self._span)
        self._span.end(self._error_reason or None)
        self._telemetry.call_ended(record)
        return record

    def describe(self, span: Span) -> None:
        """Tell a span what is known of the call."""
        if not span.context.sampled:
            return
        if self.usage is not None:
            span.set(GEN_AI_USAGE_INPUT_TOKENS, self.usage.input_token_count)
            span.set(GEN_AI_USAGE_OUTPUT_TOKENS, self.usage.output_token_count)
        if self.finish_reasons:
            span.set(GEN_AI_RESPONSE_FINISH_REASONS, list(self.finish_reasons))
        span.set(FIRST_REQUEST_ID, self._incoming.request_id)
        span.set(FIRST_STREAMED, self._streamed)


def _reason(error: BaseException) -> str:
    if isinstance(error, FirstError):
        return error.reason
    return CANCELLED if isinstance(error, asyncio.CancelledError) else "INTERNAL"
