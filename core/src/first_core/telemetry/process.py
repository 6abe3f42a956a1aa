"""Telemetry of one process: metrics, traces and logs behind one object."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Final

from first_core.errors import SettingsError
from first_core.telemetry import logs
from first_core.telemetry.metrics import Metrics
from first_core.telemetry.records import error_class
from first_core.telemetry.threads import run_bounded
from first_core.telemetry.traces import Tracer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import TextIO

    from prometheus_client import CollectorRegistry

    from first_core.clock import Clock, TimerHandle
    from first_core.settings import LogSettings, TelemetrySettings
    from first_core.telemetry.export import SpanRecorder
    from first_core.telemetry.records import CallRecord
    from first_core.telemetry.traces import AttributeValue, Span, SpanKind, TraceContext
    from first_core.types import EndpointId, Operation

LOOP_LAG_INTERVAL_S: Final = 0.25
"""Time between two measurements of the event loop's lag, in seconds."""

SERVER_STOP_TIMEOUT_S: Final = 2.0
"""Longest wait for the metrics server's thread at the end, in seconds."""

_calls_log: Final = logging.getLogger("first_core.calls")


class Telemetry:
    """Metrics, traces and logs of this process.

    Args:
        settings: Traces and metrics.
        log: Logs.
        clock: The time.
        registry: Takes the metrics; `None`: one of its own, with those of the process.
        log_stream: Where log lines go; `None`: standard error as it is at `start`.
        workers_folder: Where several workers count together; `None`: this process alone.

    Raises:
        SettingsError: Spans shall be exported, and the extra for that is not installed.
    """

    def __init__(
        self,
        settings: TelemetrySettings,
        log: LogSettings,
        clock: Clock,
        *,
        registry: CollectorRegistry | None = None,
        log_stream: TextIO | None = None,
        workers_folder: Path | None = None,
    ) -> None:
        self.metrics: Metrics = Metrics(registry, workers_folder=workers_folder)
        """Counts; a front renders them."""
        self._settings = settings
        self._log = log
        self._clock = clock
        self._log_stream = log_stream
        self._recorder_class = _recorder_class() if settings.otlp_endpoint else None
        self._recorder: SpanRecorder | None = None
        self._tracer = Tracer(settings.sample_ratio, None)
        self._writer: logs.LogWriter | None = None
        self._lag_timer: TimerHandle | None = None

    def start(self) -> None:
        """Begin to log, to export spans and, on an event loop, to measure its lag."""
        if self._writer is not None:
            return
        if self._recorder_class is not None:
            self._recorder = self._recorder_class(self._settings, self._clock)
            self._tracer = Tracer(self._settings.sample_ratio, self._recorder)
        self._writer = logs.install(self._log, self._log_stream or sys.stderr)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return
        self._measure_lag()

    async def stop(self) -> None:
        """Send and write what is left, each for a few seconds at most; safe to repeat.

        Calls may still end meanwhile and later: they are counted, their spans are lost.
        """
        if self._lag_timer is not None:
            self._lag_timer.cancel()
            self._lag_timer = None
        self._tracer = Tracer(self._settings.sample_ratio, None)
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            await recorder.stop()
        await run_bounded(self.metrics.close, SERVER_STOP_TIMEOUT_S)
        writer, self._writer = self._writer, None
        if writer is not None:
            await run_bounded(lambda: logs.remove(writer), 2 * logs.CLOSE_TIMEOUT_S)

    def span(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """Begin a span; whoever begins it ends it.

        Whether it is recorded the parent has decided; without a parent `sample_ratio` does. Where
        no spans are exported a sampled parent is passed on as it is, for others to record.

        Args:
            name: From a small set: `attempt_span_name`, or the name of an RPC or route.
            kind: Which side of a request it describes.
            parent: Where it stands; `None` begins a new trace.
            attributes: Names from `conventions`; never a prompt, an answer or a credential.
        """
        return self._tracer.span(name, kind=kind, parent=parent, attributes=attributes)

    def call_started(self, operation: Operation) -> None:
        """Count a call that was admitted. `call_ended` must follow, however it ends."""
        self.metrics.call_started(operation)

    def call_ended(self, record: CallRecord) -> None:
        """Count a call that has ended, and write its line if it failed or `log.calls` is on."""
        self.metrics.call_ended(record)
        if record.error_reason or self._log.calls:
            _calls_log.log(_level(record), "call_ended", extra=_fields(record))

    def attempt_ended(self, endpoint: EndpointId, error_reason: str = "") -> None:
        """Count an attempt that has ended; `error_reason` as in `CallRecord`."""
        self.metrics.attempt_ended(endpoint, error_reason)

    def _measure_lag(self) -> None:
        due = self._clock.monotonic() + LOOP_LAG_INTERVAL_S

        def measure() -> None:
            self.metrics.loop_lagged(max(0.0, self._clock.monotonic() - due))
            self._measure_lag()

        self._lag_timer = self._clock.call_later(LOOP_LAG_INTERVAL_S, measure)


def _recorder_class() -> type[SpanRecorder]:
    try:
        from first_core.telemetry.export import SpanRecorder  # noqa: PLC0415 - heavy, seldom used
    except ModuleNotFoundError as exc:
        if not (exc.name or "").startswith("opentelemetry"):
            raise
        raise SettingsError(
            "telemetry.otlp_endpoint: sending spans needs the extra `otlp`; "
            "pip install 'first-core[otlp]', or remove the key"
        ) from exc
    return SpanRecorder


def _level(record: CallRecord) -> int:
    if not record.error_reason:
        return logging.INFO
    return logging.ERROR if error_class(record.error_reason) == "internal" else logging.WARNING


def _fields(record: CallRecord) -> dict[str, object]:
    usage = record.usage
    return {
        "request_id": record.request_id,
        "operation": record.operation.name.lower(),
        "requested_model": record.requested_model,
        "answered_model": record.answered_model,
        "endpoint": str(record.endpoint) if record.endpoint else None,
        "attempt_count": record.attempt_count,
        "streamed": record.streamed,
        "error_reason": record.error_reason,
        "duration_s": round(record.duration_s, 6),
        "first_chunk_s": record.first_chunk_s and round(record.first_chunk_s, 6),
        "chunk_count": record.chunk_count,
        "input_token_count": usage.input_token_count if usage else None,
        "output_token_count": usage.output_token_count if usage else None,
        "finish_reasons": record.finish_reasons,
    }
