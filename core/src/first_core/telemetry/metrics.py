"""Prometheus metrics of one process. Labels come from closed sets only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import (
    CONTENT_TYPE_PLAIN_0_0_4,
    generate_latest,
    start_http_server,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from first_core.errors import SettingsError, StartupError
from first_core.settings import ListenAddress
from first_core.telemetry.records import UNKNOWN_MODEL, error_class, reason_label
from first_core.types import Operation

if TYPE_CHECKING:
    import threading
    from pathlib import Path
    from wsgiref.simple_server import WSGIServer

    from first_core.telemetry.records import CallRecord
    from first_core.types import EndpointId

DURATION_BOUNDS_S: Final = (
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
    *(163.84, 327.68, 655.36, 1310.72),
)
"""Bounds for whole calls, in seconds. Source: `gen_ai.client.operation.duration` in the GenAI
semantic conventions (docs/gen-ai/gen-ai-metrics.md), doubled on: healthy streams may be long."""

FIRST_CHUNK_BOUNDS_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 120.0, 300.0, 600.0),
)
"""Bounds for the first chunk, in seconds. Source: `gen_ai.server.time_to_first_token`, ibid., with
more above: a model that is starting takes minutes, and `timeouts.first_chunk_s` is 600."""

BETWEEN_CHUNKS_BOUNDS_S: Final = (
    *(0.001, 0.0025, 0.005),
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
"""Bounds for the mean time between chunks, in seconds. Source:
`gen_ai.server.time_per_output_token`, ibid., with more below for fast accelerators."""

LOOP_LAG_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds for the lag of the event loop, in seconds: around its goals of 20 and 50 ms."""

MAX_MODELS: Final = 1000
"""Models that get a label of their own; all later ones share `OTHER_MODEL`. Catalogs of peers
change over the months, and a label never goes away."""

OTHER_MODEL: Final = "other"
OK: Final = "ok"
"""Outcome of what ended well; other outcomes are classes of errors."""

_OPERATION_LABELS: Final = {operation: operation.name.lower() for operation in Operation}


WORKERS_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
"""Set before a worker starts: then prometheus-client counts in files of that folder. Source:
prometheus-client, "Multiprocess Mode"."""


def forget_worker(folder: Path, pid: int) -> None:
    """Drop the gauges of a worker that has died; its counts stay, so that no sum ever falls."""
    mark_process_dead(pid, str(folder))  # type: ignore[no-untyped-call]


class Metrics:
    """Counts calls. Belongs to the event loop's thread, except `render` and `close`.

    Args:
        registry: Takes the metrics; `None`: a new one, with those of the process beside.
        workers_folder: Where several workers count together; each of them tells the sums. `None`:
            this process alone.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, workers_folder: Path | None = None
    ) -> None:
        shown = registry
        if workers_folder is not None:
            # One worker's own CPU and memory would pass for those of all, so they are left out.
            registry = CollectorRegistry()
            shown = CollectorRegistry()
            MultiProcessCollector(shown, str(workers_folder))  # type: ignore[no-untyped-call]
        elif registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)
            GCCollector(registry=registry)
        self.registry = registry
        self._shown: CollectorRegistry = shown or registry
        self._families = _Families(registry)
        self._in_flight = {
            operation: self._families.in_flight.labels(label)
            for operation, label in _OPERATION_LABELS.items()
        }
        self._series: dict[tuple[Operation, str], _CallSeries] = {}
        self._models: set[str] = set()
        self._errors: dict[tuple[Operation, str], Counter] = {}
        self._attempts: dict[tuple[str, str, str], Counter] = {}
        self._server: _MetricsServer | None = None

    def call_started(self, operation: Operation) -> None:
        """Count a call that was admitted; `call_ended` must follow."""
        self._in_flight[operation].inc()

    def call_ended(self, record: CallRecord) -> None:
        """Count a call that has ended."""
        self._in_flight[record.operation].dec()
        key = record.operation, record.requested_model
        series = self._series.get(key)
        if series is None:
            series = self._add_series(*key)
        if record.error_reason:
            self._count_error(record.operation, record.error_reason)
        series.add(record)

    def attempt_ended(self, endpoint: EndpointId, error_reason: str = "") -> None:
        """Count an attempt that has ended; `error_reason` as in `CallRecord`."""
        outcome = error_class(error_reason) if error_reason else OK
        key = endpoint.cluster, endpoint.framework, outcome
        counter = self._attempts.get(key)
        if counter is None:
            counter = self._attempts[key] = self._families.attempts.labels(*key)
        counter.inc()

    def loop_lagged(self, lag_s: float) -> None:
        """Take one measurement of the event loop's lag, in seconds."""
        self._families.loop_lag.observe(lag_s)

    def _add_series(self, operation: Operation, model: str) -> _CallSeries:
        label = self._model_label(model)
        key = operation, label
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = _CallSeries(self._families, operation, label)
        if label == (model or UNKNOWN_MODEL):
            self._series[operation, model] = series
        return series

    def _model_label(self, model: str) -> str:
        if not model:
            return UNKNOWN_MODEL
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                return OTHER_MODEL
            self._models.add(model)
        return model

    def _count_error(self, operation: Operation, reason: str) -> None:
        reason = reason_label(reason)
        key = operation, reason
        counter = self._errors.get(key)
        if counter is None:
            counter = self._errors[key] = self._families.errors.labels(
                _OPERATION_LABELS[operation], error_class(reason), reason
            )
        counter.inc()

    def render(self) -> tuple[bytes, str]:
        """Return all metrics as text, and the `Content-Type` of it.

        Takes milliseconds where there are thousands of series.
        """
        return generate_latest(self._shown), CONTENT_TYPE_PLAIN_0_0_4

    def serve(self, address: ListenAddress) -> ListenAddress:
        """Answer scrapes from a thread, for a process that has no HTTP front.

        Args:
            address: `host` and `port`; port 0 takes a free one.

        Returns:
            The address with the port that was taken. `close` ends it.

        Raises:
            SettingsError: A unix socket; scrapers speak TCP.
            StartupError: The address cannot be bound, or it serves already.
        """
        if address.unix:
            raise SettingsError("telemetry.metrics_listen: write host:port, not a unix socket")
        if self._server is not None:
            raise StartupError("metrics are served already")
        self._server = _MetricsServer(address, self._shown)
        return self._server.address

    def close(self) -> None:
        """Stop answering scrapes; waits for the thread, safe to repeat."""
        server, self._server = self._server, None
        if server is not None:
            server.close()


class _Families:
    """All metrics of ours. The text beside each name is its help text in a scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        call = ("operation", "model")
        self.calls = Counter(
            "first_calls", "Calls that have ended.", (*call, "outcome"), registry=registry
        )
        self.errors = Counter(
            "first_call_errors",
            "Calls that ended in an error or were cancelled.",
            ("operation", "class", "reason"),
            registry=registry,
        )
        self.in_flight = Gauge(
            "first_calls_in_flight",
            "Calls that run now.",
            ("operation",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.tokens = Counter(
            "first_tokens",
            "Tokens as the upstreams told them.",
            ("model", "direction"),
            registry=registry,
        )
        self.attempts = Counter(
            "first_attempts",
            "Attempts that have ended.",
            ("cluster", "framework", "outcome"),
            registry=registry,
        )
        self.duration = Histogram(
            "first_call_duration_seconds",
            "From admission to the end of the answer.",
            (*call, "outcome"),
            buckets=DURATION_BOUNDS_S,
            registry=registry,
        )
        self.first_chunk = Histogram(
            "first_time_to_first_chunk_seconds",
            "From admission to the first byte of a streamed answer.",
            call,
            buckets=FIRST_CHUNK_BOUNDS_S,
            registry=registry,
        )
        self.between_chunks = Histogram(
            "first_time_between_chunks_seconds",
            "Mean time between the chunks of a stream that ended well, once per stream.",
            call,
            buckets=BETWEEN_CHUNKS_BOUNDS_S,
            registry=registry,
        )
        self.loop_lag = Histogram(
            "first_event_loop_lag_seconds",
            "How late the event loop ran a timer.",
            buckets=LOOP_LAG_BOUNDS_S,
            registry=registry,
        )


class _CallSeries:
    """The children of one operation and model, looked up once: `labels()` costs 1 µs each time."""

    __slots__ = (
        "_between_chunks", "_families", "_first_chunk", "_input", "_labels", "_outcomes", "_output",
    )  # fmt: skip

    def __init__(self, families: _Families, operation: Operation, model: str) -> None:
        self._labels = _OPERATION_LABELS[operation], model
        self._families = families
        self._outcomes: dict[str, tuple[Counter, Histogram]] = {}
        self._first_chunk = families.first_chunk.labels(*self._labels)
        self._between_chunks = families.between_chunks.labels(*self._labels)
        self._input = families.tokens.labels(model, "input")
        self._output = families.tokens.labels(model, "output")

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        reason = record.error_reason
        calls, duration = self._outcome(error_class(reason) if reason else OK)
        calls.inc()
        duration.observe(record.duration_s)
        if record.streamed and record.first_chunk_s is not None:
            self._add_stream(record, record.first_chunk_s)
        usage = record.usage
        if usage is not None:
            self._input.inc(usage.input_token_count)
            self._output.inc(usage.output_token_count)

    def _add_stream(self, record: CallRecord, first_chunk_s: float) -> None:
        self._first_chunk.observe(first_chunk_s)
        # One figure per stream instead of one per chunk, which would cost 1.7 µs an event. The
        # silence before a failure is none between chunks.
        if record.chunk_count > 1 and not record.error_reason:
            self._between_chunks.observe(
                (record.duration_s - first_chunk_s) / (record.chunk_count - 1)
            )

    def _outcome(self, outcome: str) -> tuple[Counter, Histogram]:
        children = self._outcomes.get(outcome)
        if children is None:
            children = self._outcomes[outcome] = (
                self._families.calls.labels(*self._labels, outcome),
                self._families.duration.labels(*self._labels, outcome),
            )
        return children


class _MetricsServer:
    """Answers scrapes from a thread of its own."""

    def __init__(self, address: ListenAddress, registry: CollectorRegistry) -> None:
        self._server: WSGIServer
        self._thread: threading.Thread
        try:
            self._server, self._thread = start_http_server(
                address.port, address.host, registry=registry
            )
        except OSError as exc:
            place = f"{address.host}:{address.port}"
            raise StartupError(f"telemetry.metrics_listen: {place}: {exc.strerror or exc}") from exc
        self.address = ListenAddress(address.host, self._server.server_port)

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
