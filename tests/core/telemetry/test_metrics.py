from __future__ import annotations

import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from first_core.errors import SettingsError, StartupError
from first_core.settings import ListenAddress
from first_core.telemetry import UNKNOWN_MODEL, CallRecord, Metrics
from first_core.telemetry.metrics import MAX_MODELS
from first_core.types import EndpointId, Operation, Usage

ENDPOINT = EndpointId("sophia", "vllm", "llama")
CHAT = {"operation": "chat", "model": "llama"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def record(**changes: Any) -> CallRecord:
    values: dict[str, Any] = {
        "request_id": "r1",
        "operation": Operation.CHAT,
        "requested_model": "llama",
        "start_time": 0.0,
        "duration_s": 2.0,
    }
    return CallRecord(**{**values, **changes})


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def label_values(metrics: Metrics, label: str) -> set[str]:
    text = metrics.render()[0].decode()
    return {
        sample.labels[label]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if label in sample.labels
    }


def test_call_that_ends_well_is_counted(metrics: Metrics) -> None:
    """A good call counts once, with its duration and no error."""
    metrics.call_started(Operation.CHAT)
    metrics.call_ended(record())

    assert value(metrics, "first_calls_total", **CHAT, outcome="ok") == 1
    assert value(metrics, "first_call_duration_seconds_sum", **CHAT, outcome="ok") == 2.0
    assert label_values(metrics, "reason") == set()


@pytest.mark.parametrize(
    ("reason", "error_class"),
    [
        ("NOT_FOUND", "caller"),
        ("UPSTREAM_REJECTED", "caller"),
        ("LIMIT_EXCEEDED", "capacity"),
        ("ENDPOINT_COLD", "capacity"),
        ("BACKEND_TIMEOUT", "backend"),
        ("STREAM_TRUNCATED", "backend"),
        ("INTERNAL", "internal"),
        ("CANCELLED", "cancelled"),
    ],
)
def test_failed_call_is_counted_by_class_and_reason(
    metrics: Metrics, reason: str, error_class: str
) -> None:
    """Who is at fault is read from the error tree."""
    metrics.call_ended(record(error_reason=reason))

    labels = {"operation": "chat", "class": error_class, "reason": reason}
    assert value(metrics, "first_call_errors_total", **labels) == 1
    assert value(metrics, "first_calls_total", **CHAT, outcome=error_class) == 1


def test_in_flight_rises_and_falls(metrics: Metrics) -> None:
    """Between start and end a call is in flight."""
    metrics.call_started(Operation.CHAT)
    metrics.call_started(Operation.CHAT)
    metrics.call_ended(record())

    assert value(metrics, "first_calls_in_flight", operation="chat") == 1
    assert value(metrics, "first_calls_in_flight", operation="rerank") == 0


def test_stream_gives_first_chunk_and_mean_between(metrics: Metrics) -> None:
    """(end - first chunk) / (chunks - 1), one figure per stream."""
    metrics.call_ended(record(streamed=True, first_chunk_s=0.5, chunk_count=16))

    assert value(metrics, "first_time_to_first_chunk_seconds_sum", **CHAT) == 0.5
    assert value(metrics, "first_time_between_chunks_seconds_sum", **CHAT) == pytest.approx(0.1)
    assert value(metrics, "first_time_between_chunks_seconds_count", **CHAT) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"streamed": True, "first_chunk_s": 0.5, "chunk_count": 1},
        {"streamed": True, "first_chunk_s": 0.5, "chunk_count": 9, "error_reason": "CANCELLED"},
        {"streamed": True},
    ],
)
def test_no_mean_between_chunks_without_two_of_a_whole_stream(
    metrics: Metrics, changes: dict[str, Any]
) -> None:
    """One chunk has no distance, and the silence before a failure is none."""
    metrics.call_ended(record(**changes))

    assert value(metrics, "first_time_between_chunks_seconds_count", **CHAT) == 0


def test_whole_answer_has_no_first_chunk(metrics: Metrics) -> None:
    """A call that is not streamed says nothing about first chunks."""
    metrics.call_ended(record(first_chunk_s=1.9, chunk_count=1))

    assert value(metrics, "first_time_to_first_chunk_seconds_count", **CHAT) == 0


def test_tokens_are_the_upstreams(metrics: Metrics) -> None:
    """Tokens add up by direction; a call without usage adds none."""
    metrics.call_ended(record(usage=Usage(10, 3)))
    metrics.call_ended(record(usage=Usage(1, 1)))
    metrics.call_ended(record())

    assert value(metrics, "first_tokens_total", model="llama", direction="input") == 11
    assert value(metrics, "first_tokens_total", model="llama", direction="output") == 4


def test_attempts_are_counted_by_endpoint(metrics: Metrics) -> None:
    """Each attempt counts with the cluster, the framework and how it ended."""
    metrics.attempt_ended(ENDPOINT)
    metrics.attempt_ended(ENDPOINT, "BACKEND_UNAVAILABLE")

    where = {"cluster": "sophia", "framework": "vllm"}
    assert value(metrics, "first_attempts_total", **where, outcome="ok") == 1
    assert value(metrics, "first_attempts_total", **where, outcome="backend") == 1


def test_unknown_reason_becomes_one_label(metrics: Metrics) -> None:
    """A reason outside the closed set never becomes a label of its own."""
    for reason in ("sk-secret", "made up"):
        metrics.call_ended(record(error_reason=reason))

    assert label_values(metrics, "reason") == {"UNKNOWN"}
    assert label_values(metrics, "class") == {"internal"}


def test_number_of_models_is_bounded(metrics: Metrics) -> None:
    """Models beyond the bound share one label, and known ones keep theirs."""
    for index in range(MAX_MODELS + 50):
        metrics.call_ended(record(requested_model=f"m{index}"))
    metrics.call_ended(record(requested_model="m0"))

    models = label_values(metrics, "model")
    assert len(models) == MAX_MODELS + 1
    assert value(metrics, "first_calls_total", operation="chat", model="other", outcome="ok") == 50
    assert value(metrics, "first_calls_total", operation="chat", model="m0", outcome="ok") == 2


def test_series_of_models_beyond_the_bound_are_not_kept(metrics: Metrics) -> None:
    """Names that nobody will ask for again take no memory."""
    for index in range(MAX_MODELS + 50):
        metrics.call_ended(record(requested_model=f"m{index}"))

    assert len(metrics._series) == MAX_MODELS + 1


def test_call_without_a_model_is_of_the_unknown_one(metrics: Metrics) -> None:
    """What was never resolved has one label."""
    metrics.call_ended(record(requested_model=""))
    metrics.call_ended(record(requested_model=UNKNOWN_MODEL))

    assert label_values(metrics, "model") == {UNKNOWN_MODEL}
    labels = {"operation": "chat", "model": UNKNOWN_MODEL, "outcome": "ok"}
    assert value(metrics, "first_calls_total", **labels) == 2


def test_every_operation_has_a_label(metrics: Metrics) -> None:
    """All operations can be counted, none is forgotten."""
    for operation in Operation:
        metrics.call_started(operation)
        metrics.call_ended(record(operation=operation))

    assert label_values(metrics, "operation") == {item.name.lower() for item in Operation}


def test_registries_stay_apart() -> None:
    """Two processes' worth of metrics in one process never mix, nor clash."""
    first, second = Metrics(), Metrics()
    first.call_ended(record())

    assert value(first, "first_calls_total", **CHAT, outcome="ok") == 1
    assert value(second, "first_calls_total", **CHAT, outcome="ok") is None


def test_process_metrics_stand_beside() -> None:
    """Memory, CPU and garbage collection come with the registry of our own."""
    text = Metrics().render()[0].decode()

    assert "process_resident_memory_bytes" in text
    assert "python_gc_collections_total" in text


def test_serve_answers_scrapes_until_close(metrics: Metrics) -> None:
    """A router without HTTP front is scraped at an address of its own."""
    metrics.call_ended(record())
    address = metrics.serve(ListenAddress("127.0.0.1", 0))
    url = f"http://{address.host}:{address.port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as response:
        text = response.read()
    metrics.close()
    metrics.close()

    assert b"first_calls_total" in text
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port), timeout=5)


def test_serve_tells_which_address_is_taken(metrics: Metrics) -> None:
    """A port that is in use stops the start, with the key and the address in the message."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(StartupError, match=rf"metrics_listen: 127.0.0.1:{port}"):
            metrics.serve(ListenAddress("127.0.0.1", port))


def test_serve_refuses_a_unix_socket(metrics: Metrics) -> None:
    """Scrapers speak TCP."""
    with pytest.raises(SettingsError, match="host:port"):
        metrics.serve(ListenAddress.parse("unix:/run/x"))


def test_serve_twice_is_an_error(metrics: Metrics) -> None:
    """A second server would hide the first, which then nobody closes."""
    metrics.serve(ListenAddress("127.0.0.1", 0))
    try:
        with pytest.raises(StartupError, match="already"):
            metrics.serve(ListenAddress("127.0.0.1", 0))
    finally:
        metrics.close()
