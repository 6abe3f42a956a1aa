"""What is known of a call so far: its spans, its times, its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from first_core.domain.calls import IncomingCall, Trailer
from first_core.errors import FirstError
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
    from collections.abc import Iterator

    from first_core.clock import Clock
    from first_core.types import EndpointId, Usage

CALL_SPAN: Final = "first.v1.InferenceService/Call"
STREAM_SPAN: Final = "first.v1.InferenceService/StreamCall"
"""Names of the router's spans. Source: OpenTelemetry semantic conventions, "gRPC"."""

_log = logging.getLogger(__name__)


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
        self._endpoint: EndpointId | None = None
        self._error_reason = ""
        self._attempt_error = ""
        self._span = telemetry.span(
            STREAM_SPAN if streamed else CALL_SPAN, kind=SpanKind.SERVER, parent=incoming.trace
        )
        self.requested_model = UNKNOWN_MODEL
        self.attempt_count = 0
        self.first_chunk_s: float | None = None
        self.chunk_count = 0
        self.usage: Usage | None = None
        self.finish_reasons: tuple[str, ...] = ()
        telemetry.call_started(incoming.operation)

    def elapsed_s(self) -> float:
        """Return the seconds since admission."""
        return self._clock.monotonic() - self._start

    def first_chunk(self) -> None:
        """Note that the answer begins."""
        self.first_chunk_s = self.elapsed_s()

    @contextmanager
    def attempt(self, endpoint: EndpointId) -> Iterator[Span]:
        """Account for one attempt; its span is the parent of what the upstream records."""
        self._endpoint = endpoint
        self._attempt_error = ""
        self.attempt_count += 1
        span = self._telemetry.span(
            attempt_span_name(self._incoming.operation, endpoint.model),
            kind=SpanKind.CLIENT,
            parent=self._span.context,
            attributes=self._attributes(endpoint) if self._span.context.sampled else None,
        )
        try:
            yield span
        except BaseException as exc:
            self._attempt_error = _reason(exc)
            raise
        finally:
            self._describe(span)
            span.end(self._attempt_error)
            self._telemetry.attempt_ended(endpoint, error_reason=self._attempt_error)

    def _attributes(self, endpoint: EndpointId) -> dict[str, str | int]:
        return {
            GEN_AI_OPERATION_NAME: genai_operation(self._incoming.operation),
            GEN_AI_REQUEST_MODEL: endpoint.model,
            FIRST_CLUSTER: endpoint.cluster,
            FIRST_FRAMEWORK: endpoint.framework,
            FIRST_ATTEMPT: self.attempt_count,
        }

    def attempt_failed(self, error: FirstError) -> None:
        """Note why an attempt failed; the next one may still answer."""
        self._attempt_error = error.reason
        _log.warning(
            "attempt_failed",
            extra={
                "request_id": self._incoming.request_id,
                "endpoint": str(self._endpoint),
                "attempt": self.attempt_count,
                "error_reason": error.reason,
                # What an upstream says may quote the prompt.
                "error": error.message if error.upstream is None else None,
                "cause": repr(error.__cause__) if error.__cause__ else None,
            },
        )

    def failed(self, error: BaseException) -> None:
        """Note that the call ends in an error, or that its client left."""
        self._error_reason = _reason(error)

    def trailer(self) -> Trailer:
        """Return what the client is told at the end."""
        return Trailer(self.usage, self.first_chunk_s, self.elapsed_s(), self.finish_reasons)

    def close(self) -> CallRecord:
        """End the account: span, metrics, log line."""
        record = CallRecord(
            request_id=self._incoming.request_id,
            operation=self._incoming.operation,
            requested_model=self.requested_model,
            answered_model=self._endpoint.model if self._endpoint and self.first_chunk_s else "",
            endpoint=self._endpoint,
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
        self._describe(self._span)
        self._span.end(self._error_reason or None)
        self._telemetry.call_ended(record)
        return record

    def _describe(self, span: Span) -> None:
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
