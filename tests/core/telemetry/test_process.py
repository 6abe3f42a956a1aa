from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import CallRecord, Telemetry, attempt_span_name, conventions
from first_core.telemetry.process import LOOP_LAG_INTERVAL_S
from first_core.telemetry.records import ERROR_CLASSES
from first_core.testing.clock import FakeClock, FakeTimer
from first_core.types import EndpointId, Operation, Usage
from first_proto.v1 import error_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import LogStream

    Make = Callable[..., Telemetry]

REFERENCE = Path(__file__).parents[3] / "docs/reference/telemetry.md"


def record(**changes: Any) -> CallRecord:
    values: dict[str, Any] = {
        "request_id": "r1",
        "operation": Operation.CHAT,
        "requested_model": "llama",
        "answered_model": "llama-3",
        "endpoint": EndpointId("sophia", "vllm", "llama"),
        "attempt_count": 1,
        "streamed": True,
        "start_time": 0.0,
        "duration_s": 1.25,
        "first_chunk_s": 0.25,
        "chunk_count": 3,
        "usage": Usage(10, 2),
        "finish_reasons": ("stop",),
    }
    return CallRecord(**{**values, **changes})


async def test_good_call_writes_no_line(make_telemetry: Make, stream: LogStream) -> None:
    """By default only calls that fail write a line."""
    telemetry = make_telemetry()
    telemetry.call_started(Operation.CHAT)
    telemetry.call_ended(record())
    await telemetry.stop()

    assert stream.lines() == []


async def test_good_call_writes_its_line_on_demand(make_telemetry: Make, stream: LogStream) -> None:
    """With `log.calls` each call writes all that is known of it."""
    telemetry = make_telemetry(log=LogSettings(calls=True))
    telemetry.call_started(Operation.CHAT)
    telemetry.call_ended(record())
    await telemetry.stop()

    (line,) = stream.lines()
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "first_core.calls",
        "message": "call_ended",
        "request_id": "r1",
        "operation": "chat",
        "requested_model": "llama",
        "answered_model": "llama-3",
        "endpoint": "sophia/vllm/llama",
        "attempt_count": 1,
        "streamed": True,
        "error_reason": "",
        "duration_s": 1.25,
        "first_chunk_s": 0.25,
        "chunk_count": 3,
        "input_token_count": 10,
        "output_token_count": 2,
        "finish_reasons": ["stop"],
    }


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        ("NOT_FOUND", "warning"),
        ("OVERLOADED", "warning"),
        ("BACKEND_TIMEOUT", "warning"),
        ("CANCELLED", "warning"),
        ("INTERNAL", "error"),
    ],
)
async def test_failed_call_always_writes_its_line(
    make_telemetry: Make, stream: LogStream, reason: str, level: str
) -> None:
    """Whoever is at fault, the call can be found; a bug of ours stands out."""
    telemetry = make_telemetry()
    telemetry.call_started(Operation.CHAT)
    telemetry.call_ended(record(error_reason=reason, endpoint=None, usage=None))
    await telemetry.stop()

    (line,) = stream.lines()
    assert (line["error_reason"], line["level"], line["endpoint"]) == (reason, level, None)


async def test_attempts_reach_the_metrics(make_telemetry: Make) -> None:
    """An attempt is counted through the one object that everybody has."""
    telemetry = make_telemetry()
    telemetry.attempt_ended(EndpointId("sophia", "vllm", "llama"), error_reason="OVERLOADED")

    labels = {"cluster": "sophia", "framework": "vllm", "outcome": "capacity"}
    assert telemetry.metrics.registry.get_sample_value("first_attempts_total", labels) == 1


class LateClock(FakeClock):
    """Runs each timer 0.1 s after it was due."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> FakeTimer:
        return super().call_later(delay_s + 0.1, callback)


async def test_loop_lag_is_how_late_timers_run(stream: LogStream) -> None:
    """Each measurement tells by how much the loop was late, and sets up the next."""
    clock = LateClock()
    telemetry = Telemetry(TelemetrySettings(), LogSettings(), clock, log_stream=stream)
    telemetry.start()
    clock.advance(3.5 * (LOOP_LAG_INTERVAL_S + 0.1))
    await telemetry.stop()

    registry = telemetry.metrics.registry
    assert registry.get_sample_value("first_event_loop_lag_seconds_count") == 3
    lag_s = registry.get_sample_value("first_event_loop_lag_seconds_sum")
    assert lag_s == pytest.approx(0.3)


async def test_stop_may_repeat_and_start_may_follow(
    make_telemetry: Make, stream: LogStream, clock: FakeClock
) -> None:
    """Stopping leaves no timer, and telemetry can begin anew."""
    telemetry = make_telemetry()
    await telemetry.stop()
    await telemetry.stop()
    assert clock.timer_count == 0
    telemetry.start()
    telemetry.start()
    telemetry.call_ended(record(error_reason="INTERNAL"))
    await telemetry.stop()

    assert len(stream.lines()) == 1


def test_start_works_without_an_event_loop(stream: LogStream, clock: FakeClock) -> None:
    """A command of the command line logs too."""
    telemetry = Telemetry(TelemetrySettings(), LogSettings(), clock, log_stream=stream)
    telemetry.start()
    telemetry.call_ended(record(error_reason="INTERNAL"))
    asyncio.run(telemetry.stop())

    assert len(stream.lines()) == 1


def test_every_reason_of_the_contract_has_a_class() -> None:
    """Reasons in metrics are those of `first.v1.ErrorReason`, and `CANCELLED`."""
    names = {name.removeprefix("ERROR_REASON_") for name in error_pb2.ErrorReason.keys()}  # noqa: SIM118

    assert set(ERROR_CLASSES) - {"CANCELLED"} == names - {"UNSPECIFIED"}


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (Operation.CHAT, "chat m"),
        (Operation.MESSAGE, "chat m"),
        (Operation.RESPONSE, "chat m"),
        (Operation.COMPLETION, "text_completion m"),
        (Operation.EMBEDDING, "embeddings m"),
        (Operation.RERANK, "rerank m"),
        (Operation.MESSAGE_TOKEN_COUNT, "message_token_count m"),
    ],
)
def test_attempt_span_is_named_by_the_convention(operation: Operation, name: str) -> None:
    """The convention's own word where it has one, ours elsewhere, then the model."""
    assert attempt_span_name(operation, "m") == name


def test_reference_names_every_metric() -> None:
    """The reference has each metric of ours with exactly its labels."""
    telemetry = Telemetry(TelemetrySettings(), LogSettings(), None)  # type: ignore[arg-type]
    families = vars(telemetry.metrics._families).values()
    rows = dict(
        re.findall(r"^\| `(first_\w+)` \| \w+ \| ([^|]*?) *\|", REFERENCE.read_text(), re.MULTILINE)
    )

    assert {name: re.findall(r"`(\w+)`", labels) for name, labels in rows.items()} == {
        family._name + ("_total" if family._type == "counter" else ""): list(family._labelnames)
        for family in families
    }


def test_reference_names_every_attribute() -> None:
    """The reference has each attribute that spans may carry, and no other."""
    names = {value for key, value in vars(conventions).items() if key.isupper() and key[0] != "_"}
    rows = re.findall(r"^\| `([a-z_]+\.[a-z_.]+)` \|", REFERENCE.read_text(), re.MULTILINE)

    assert set(rows) == names


async def test_reference_names_every_field_of_a_call(
    make_telemetry: Make, stream: LogStream
) -> None:
    """The reference has each field of the line `call_ended`."""
    telemetry = make_telemetry(log=LogSettings(calls=True))
    telemetry.call_ended(record())
    await telemetry.stop()
    text = REFERENCE.read_text()

    assert [field for field in stream.lines()[0] if f"`{field}`" not in text] == []
