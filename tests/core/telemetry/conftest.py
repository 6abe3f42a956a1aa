from __future__ import annotations

import io
import json
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import Telemetry
from first_core.testing.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span


class OtlpReceiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A receiver of spans on a real socket."""

    def __init__(self) -> None:
        self.requests: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.answer: grpc.StatusCode = grpc.StatusCode.OK
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"
        self._server.start()

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        if self.answer is not grpc.StatusCode.OK:
            context.abort(self.answer, "away")
        self.requests.append(request)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self) -> dict[str, Span]:
        """Return what arrived, by name."""
        return {
            span.name: span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }

    def stop(self) -> None:
        self._server.stop(grace=None).wait()


@pytest.fixture
def otlp() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    yield receiver
    receiver.stop()


class LogStream(io.StringIO):
    """Standard error of a test."""

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream() -> LogStream:
    return LogStream()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def make_telemetry(
    stream: LogStream, clock: FakeClock
) -> AsyncIterator[Callable[..., Telemetry]]:
    """Makes one that has started, and stops it after the test."""
    made: list[Telemetry] = []

    def make(*, log: LogSettings | None = None, **settings: Any) -> Telemetry:
        telemetry = Telemetry(
            TelemetrySettings(**settings), log or LogSettings(), clock, log_stream=stream
        )
        made.append(telemetry)
        telemetry.start()
        return telemetry

    yield make
    for telemetry in made:
        await telemetry.stop()
