from __future__ import annotations

import subprocess
import sys

import pytest

from first_core.telemetry import SpanKind, TraceContext
from first_core.telemetry.traces import MAX_TRACESTATE_CHARS, Tracer, UnrecordedSpan

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (VALID, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"  {VALID}\t", True),
        (f"01-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", True),
    ],
)
def test_parse_reads_valid_headers(text: str, sampled: bool) -> None:  # noqa: FBT001
    """Version 00 is read, and later versions as far as 00 goes."""
    assert TraceContext.parse(text) == TraceContext(TRACE, SPAN, sampled=sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "00",
        "-",
        "---",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"01-{TRACE}-{SPAN}-01more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-011",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}g-01",
        f"0-{TRACE}-{SPAN}-01",
        f"0x-{TRACE}-{SPAN}-01",
        f"{VALID}\n",
        f"{VALID}\r\nauthorization: x",
        f"{VALID},{VALID}",
        f"00_{TRACE}_{SPAN}_01",
        f"00-\uff11{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0\u0661",
        VALID * 10_000,
        "\x00" * 55,
        "-" * 100_000,
    ],
)
def test_parse_refuses_hostile_headers(text: str) -> None:
    """What the standard forbids begins a new trace instead of an error."""
    assert TraceContext.parse(text) is None


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        (" a=1 , ", "a=1"),
        ("a=" + "x" * (MAX_TRACESTATE_CHARS - 2), "a=" + "x" * (MAX_TRACESTATE_CHARS - 2)),
        ("a=" + "x" * MAX_TRACESTATE_CHARS, ""),
        ("a=1\r\nauthorization: x", ""),
        ("a=ü", ""),
        ("", ""),
    ],
)
def test_parse_keeps_a_tracestate_that_can_travel(tracestate: str, kept: str) -> None:
    """One that is too long or could break a header is dropped; the trace goes on."""
    context = TraceContext.parse(VALID, tracestate)

    assert context is not None
    assert context.tracestate == kept


def test_traceparent_is_what_parse_reads() -> None:
    """The text of a context reads back as the same context."""
    context = TraceContext(TRACE, SPAN, sampled=True)

    assert context.traceparent == VALID
    assert TraceContext.parse(context.traceparent) == context


class RecordingMaker:
    """Tells which spans were to be recorded."""

    def __init__(self) -> None:
        self.parents: list[TraceContext | None] = []

    def __call__(self, name, *, kind, parent, attributes):
        self.parents.append(parent)
        return UnrecordedSpan(TraceContext(TRACE, SPAN, sampled=True))


@pytest.mark.parametrize("sampled", [True, False])
def test_tracer_obeys_the_parent(sampled: bool) -> None:  # noqa: FBT001
    """The parent's decision wins over any ratio."""
    maker = RecordingMaker()
    parent = TraceContext("1" * 32, "2" * 16, sampled=sampled)

    span = Tracer(0.0 if sampled else 1.0, maker).span("x", kind=SpanKind.SERVER, parent=parent)

    assert span.context.sampled is sampled
    assert bool(maker.parents) is sampled


@pytest.mark.parametrize(("draw", "sampled"), [(0.0, True), (0.24, True), (0.25, False)])
def test_tracer_samples_roots_by_ratio(draw: float, sampled: bool) -> None:  # noqa: FBT001
    """Without a parent the ratio decides."""
    tracer = Tracer(0.25, RecordingMaker(), draw=lambda: draw)

    assert tracer.span("x", kind=SpanKind.SERVER, parent=None).context.sampled is sampled


def test_tracer_never_samples_a_root_at_ratio_zero() -> None:
    """Ratio 0 records nothing, whatever the draw."""
    maker = RecordingMaker()
    Tracer(0.0, maker, draw=lambda: 0.0).span("x", kind=SpanKind.SERVER, parent=None)

    assert maker.parents == []


def test_unsampled_span_stays_in_its_trace() -> None:
    """A span that is not recorded keeps the trace, with an id of its own."""
    parent = TraceContext("1" * 32, "2" * 16, sampled=False, tracestate="a=1")
    context = Tracer(1.0, RecordingMaker()).span("x", kind=SpanKind.CLIENT, parent=parent).context

    assert (context.trace_id, context.tracestate) == (parent.trace_id, "a=1")
    assert context.span_id != parent.span_id
    assert TraceContext.parse(context.traceparent, "a=1") == context


def test_unsampled_root_has_ids_of_its_own() -> None:
    """Two new traces never share an id, and both can travel."""
    tracer = Tracer(0.0, None)
    first, second = (tracer.span("x", kind=SpanKind.SERVER, parent=None).context for _ in range(2))

    assert first.trace_id != second.trace_id
    assert TraceContext.parse(first.traceparent) == first


def test_sampled_parent_passes_through_where_nothing_is_exported() -> None:
    """A span id that nobody exports would tear apart what others record."""
    parent = TraceContext("1" * 32, "2" * 16, sampled=True, tracestate="a=1")

    assert Tracer(1.0, None).span("x", kind=SpanKind.SERVER, parent=parent).context == parent


def test_unsampled_span_takes_everything_in_silence() -> None:
    """Setting and ending cost nothing, may repeat and never fail."""
    span = Tracer(0.0, None).span("x", kind=SpanKind.SERVER, parent=None)
    context = span.context
    span.set("a", "b")
    span.end("INTERNAL")
    span.end()

    assert span.context == context


def test_sdk_is_not_imported_unless_spans_are_exported() -> None:
    """A process without `otlp_endpoint` never loads the SDK, however many spans it makes."""
    code = """
import asyncio, io, sys
from first_core.clock import SystemClock
from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import SpanKind, Telemetry, TraceContext

async def main():
    telemetry = Telemetry(TelemetrySettings(sample_ratio=1.0), LogSettings(), SystemClock())
    telemetry.start()
    parent = TraceContext("1" * 32, "2" * 16, sampled=True)
    telemetry.span("x", kind=SpanKind.SERVER, parent=parent).end()
    telemetry.span("x", kind=SpanKind.SERVER, parent=None).end()
    await telemetry.stop()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)

    assert done.stdout.strip() == "[]"
    assert done.stderr == ""
