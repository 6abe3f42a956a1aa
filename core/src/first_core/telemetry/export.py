"""Spans of the OpenTelemetry SDK, sent by OTLP over gRPC. The only module that imports the SDK."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from first_core.telemetry.conventions import ERROR_TYPE
from first_core.telemetry.threads import run_bounded
from first_core.telemetry.traces import SpanKind, TraceContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from first_core.clock import Clock
    from first_core.settings import TelemetrySettings
    from first_core.telemetry.traces import AttributeValue

FAILURE_LOG_INTERVAL_S: Final = 60.0
"""Shortest time between two log lines on failed exports, in seconds."""

EXPORT_TIMEOUT_S: Final = 10.0
"""Longest export of one batch, retries included, in seconds. Source: OpenTelemetry's default."""

FLUSH_TIMEOUT_S: Final = 5.0
"""Longest wait at the end for spans that were not sent yet, in seconds."""

CLOSE_TIMEOUT_S: Final = 1.0
"""Longest wait for the exporter's thread after it was told to end, in seconds."""

_KINDS: Final = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
    SpanKind.INTERNAL: trace.SpanKind.INTERNAL,
}

_log = logging.getLogger(__name__)


class SpanRecorder:
    """Makes SDK spans and sends them from a thread of its own.

    Args:
        settings: `otlp_endpoint` must be set: `https://` means TLS, everything else does not.
        clock: Times of the spans.
        flush_timeout_s: As `FLUSH_TIMEOUT_S`.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        clock: Clock,
        *,
        flush_timeout_s: float = FLUSH_TIMEOUT_S,
    ) -> None:
        endpoint = settings.otlp_endpoint or ""
        self._clock = clock
        self._flush_timeout_s = flush_timeout_s
        self._exporter = _CalmExporter(
            OTLPSpanExporter(
                endpoint=endpoint,
                insecure=not endpoint.startswith("https://"),
                timeout=EXPORT_TIMEOUT_S,
            ),
            clock,
        )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({SERVICE_NAME: settings.service_name}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("first_core")
        self._stopped = False

    def __call__(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None,
        attributes: Mapping[str, AttributeValue] | None,
    ) -> RecordedSpan:
        """Begin a span that will be exported, below `parent` or as the root of a new trace."""
        span = self._tracer.start_span(
            name,
            context=_sdk_context(parent),
            kind=_KINDS[kind],
            attributes=attributes,
            start_time=_nanoseconds(self._clock),
        )
        return RecordedSpan(span, self._clock, parent)

    async def stop(self) -> None:
        """Send what is left for at most `flush_timeout_s`, then close; safe to repeat."""
        if self._stopped:
            return
        self._stopped = True
        if not await run_bounded(self._provider.force_flush, self._flush_timeout_s):
            _log.warning("spans left behind", extra={"timeout_s": self._flush_timeout_s})
        # Aborts an export that is still under way, so that the rest ends at once.
        self._exporter.shutdown()
        await run_bounded(self._provider.shutdown, CLOSE_TIMEOUT_S)


class RecordedSpan:
    """A span of the SDK."""

    __slots__ = ("_clock", "_span", "context")

    def __init__(self, span: trace.Span, clock: Clock, parent: TraceContext | None) -> None:
        ids = span.get_span_context()
        self._span = span
        self._clock = clock
        self.context = TraceContext(
            trace.format_trace_id(ids.trace_id),
            trace.format_span_id(ids.span_id),
            sampled=True,
            tracestate=parent.tracestate if parent else "",
        )

    def set(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; after `end` it is ignored."""
        if self._span.is_recording():
            self._span.set_attribute(key, value)

    def end(self, error_type: str | None = None) -> None:
        """End the span; repeating it changes nothing."""
        if not self._span.is_recording():
            return
        if error_type:
            self._span.set_attribute(ERROR_TYPE, error_type)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end(_nanoseconds(self._clock))


class _CalmExporter(SpanExporter):
    """Keeps failures of an exporter from everybody, and tells of them now and then."""

    def __init__(self, exporter: SpanExporter, clock: Clock) -> None:
        self._exporter = exporter
        self._clock = clock
        self._lost_count = 0
        self._told_at = -FAILURE_LOG_INTERVAL_S
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; a failure is counted and told."""
        if self._closed:
            return SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        except Exception as exc:
            self._failed(len(spans), type(exc).__name__)
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._failed(len(spans), "")
        return result

    def _failed(self, span_count: int, error: str) -> None:
        self._lost_count += span_count
        now = self._clock.monotonic()
        if now - self._told_at < FAILURE_LOG_INTERVAL_S:
            return
        _log.warning(
            "spans could not be exported", extra={"span_count": self._lost_count, "error": error}
        )
        self._told_at, self._lost_count = now, 0

    def shutdown(self) -> None:
        """Close the exporter and abort what it is doing; safe to repeat."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()


def _nanoseconds(clock: Clock) -> int:
    return int(clock.time() * 1e9)


_ROOT: Final = trace.set_span_in_context(trace.INVALID_SPAN)


def _sdk_context(parent: TraceContext | None) -> Context:
    if parent is None:
        return _ROOT
    ids = trace.SpanContext(
        int(parent.trace_id, 16),
        int(parent.span_id, 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        trace_state=trace.TraceState.from_header([parent.tracestate])
        if parent.tracestate
        else None,
    )
    return trace.set_span_in_context(trace.NonRecordingSpan(ids))
