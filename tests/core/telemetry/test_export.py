from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from first_core.clock import SystemClock
from first_core.errors import SettingsError
from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import (
    GEN_AI_OPERATION_NAME,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_USAGE_INPUT_TOKENS,
    SpanKind,
    Telemetry,
    TraceContext,
)
from first_core.telemetry.export import (
    FAILURE_LOG_INTERVAL_S,
    SpanRecorder,
    _CalmExporter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import LogStream, OtlpReceiver

    from first_core.testing.clock import FakeClock

    Make = Callable[..., Telemetry]

PARENT = TraceContext("1" * 32, "2" * 16, sampled=True, tracestate="a=1")


async def test_spans_arrive_as_parent_and_child_of_one_trace(
    make_telemetry: Make, otlp: OtlpReceiver
) -> None:
    """Client, call and attempt hang together under the client's trace id."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint)
    call = telemetry.span("call", kind=SpanKind.SERVER, parent=PARENT)
    attempt = telemetry.span("chat m", kind=SpanKind.CLIENT, parent=call.context)
    attempt.end()
    call.end()
    await telemetry.stop()

    spans = otlp.spans()
    assert {span.trace_id.hex() for span in spans.values()} == {PARENT.trace_id}
    assert spans["call"].parent_span_id.hex() == PARENT.span_id
    assert spans["chat m"].parent_span_id.hex() == call.context.span_id
    assert spans["chat m"].span_id.hex() == attempt.context.span_id


async def test_root_span_has_no_parent(make_telemetry: Make, otlp: OtlpReceiver) -> None:
    """A new trace that the ratio picks begins at our span."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint, sample_ratio=1.0)
    span = telemetry.span("call", kind=SpanKind.SERVER, parent=None)
    span.end()
    await telemetry.stop()

    arrived = otlp.spans()["call"]
    assert arrived.parent_span_id == b""
    assert arrived.trace_id.hex() == span.context.trace_id
    assert span.context.sampled


async def test_span_carries_what_was_set(
    make_telemetry: Make, otlp: OtlpReceiver, clock: FakeClock
) -> None:
    """Kind, attributes, times and service name arrive as they were given."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint, service_name="gate")
    begun = clock.time()
    span = telemetry.span(
        "chat m", kind=SpanKind.CLIENT, parent=PARENT, attributes={GEN_AI_OPERATION_NAME: "chat"}
    )
    span.set(GEN_AI_USAGE_INPUT_TOKENS, 7)
    span.set(GEN_AI_RESPONSE_FINISH_REASONS, ["stop"])
    clock.advance(2.0)
    span.end()
    await telemetry.stop()

    arrived = otlp.spans()["chat m"]
    values = {item.key: item.value for item in arrived.attributes}
    assert arrived.kind == trace_pb2.Span.SPAN_KIND_CLIENT
    assert values[GEN_AI_OPERATION_NAME].string_value == "chat"
    assert values[GEN_AI_USAGE_INPUT_TOKENS].int_value == 7
    assert [v.string_value for v in values[GEN_AI_RESPONSE_FINISH_REASONS].array_value.values] == [
        "stop"
    ]
    assert arrived.start_time_unix_nano == pytest.approx(begun * 1e9)
    assert arrived.end_time_unix_nano - arrived.start_time_unix_nano == 2_000_000_000
    resource = otlp.requests[0].resource_spans[0].resource.attributes
    assert {a.key: a.value.string_value for a in resource}["service.name"] == "gate"


async def test_span_keeps_tracestate(make_telemetry: Make, otlp: OtlpReceiver) -> None:
    """What other vendors noted goes to the receiver and to the next process."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint)
    span = telemetry.span("call", kind=SpanKind.SERVER, parent=PARENT)
    span.end()
    await telemetry.stop()

    assert otlp.spans()["call"].trace_state == "a=1"
    assert span.context.tracestate == "a=1"


async def test_first_end_of_a_span_counts(make_telemetry: Make, otlp: OtlpReceiver) -> None:
    """Ending and setting after the end change nothing, and log nothing."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint)
    span = telemetry.span("call", kind=SpanKind.SERVER, parent=PARENT)
    span.end("BACKEND_TIMEOUT")
    span.end()
    span.set("late", "x")
    await telemetry.stop()

    arrived = otlp.spans()["call"]
    assert arrived.status.code == trace_pb2.Status.STATUS_CODE_ERROR
    assert {a.key: a.value.string_value for a in arrived.attributes} == {
        "error.type": "BACKEND_TIMEOUT"
    }


async def test_unsampled_spans_are_not_sent(make_telemetry: Make, otlp: OtlpReceiver) -> None:
    """An unsampled call leaves no trace at the receiver."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint, sample_ratio=0.0)
    telemetry.span("call", kind=SpanKind.SERVER, parent=None).end()
    await telemetry.stop()

    assert otlp.requests == []


async def test_span_after_stop_still_has_a_context(
    make_telemetry: Make, otlp: OtlpReceiver
) -> None:
    """Calls that outlive telemetry go on: their spans are lost, their context travels."""
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint)
    await telemetry.stop()
    span = telemetry.span("call", kind=SpanKind.SERVER, parent=PARENT)
    span.end()

    assert span.context.trace_id == PARENT.trace_id
    assert otlp.requests == []


async def test_failed_export_is_told_and_harms_nobody(
    make_telemetry: Make, otlp: OtlpReceiver, stream: LogStream
) -> None:
    """A receiver that refuses costs the spans, and one line of ours says so."""
    otlp.answer = grpc.StatusCode.PERMISSION_DENIED
    telemetry = make_telemetry(otlp_endpoint=otlp.endpoint)
    telemetry.span("call", kind=SpanKind.SERVER, parent=PARENT).end()
    await telemetry.stop()

    assert [(line["message"], line["span_count"]) for line in stream.lines()] == [
        ("spans could not be exported", 1)
    ]


async def test_stop_is_bounded_while_the_receiver_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """An export that waits to be repeated is given up when the bound is over."""
    settings = TelemetrySettings(otlp_endpoint="http://127.0.0.1:1")
    recorder = SpanRecorder(settings, SystemClock(), flush_timeout_s=0.01)
    recorder("call", kind=SpanKind.SERVER, parent=PARENT, attributes=None).end()
    await recorder.stop()
    await recorder.stop()

    ours = [r.message for r in caplog.records if r.name.startswith("first_core")]
    assert "spans left behind" in ours


class FailingExporter(SpanExporter):
    """Fails in both ways, in turn."""

    def __init__(self) -> None:
        self.calls = 0

    def export(self, spans):
        self.calls += 1
        if self.calls % 2:
            raise RuntimeError("sk-secret")
        return SpanExportResult.FAILURE


def test_export_failures_are_told_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """However often it fails, one line a minute gives the number of spans that were lost."""
    exporter = _CalmExporter(FailingExporter(), clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            exporter.export(["span"])
        clock.advance(FAILURE_LOG_INTERVAL_S)
        exporter.export(["span"])

    assert [record.span_count for record in caplog.records] == [1, 3]


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants spans exported and lacks the exporter learns what to install."""
    monkeypatch.delitem(sys.modules, "first_core.telemetry.export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)

    with pytest.raises(SettingsError, match=r"pip install 'first-core\[otlp\]'"):
        Telemetry(TelemetrySettings(otlp_endpoint="http://x:1"), LogSettings(), SystemClock())
