"""Between messages of `first.v1` and the domain's value objects."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from first_core.domain.bounds import UNBOUNDED
from first_core.domain.calls import Head, IncomingCall, Trailer
from first_core.domain.fair_queue import Priority
from first_core.errors import InvalidRequestError
from first_core.telemetry import TraceContext
from first_core.types import EndpointId, Operation, Pin
from first_proto.v1 import catalog_pb2, common_pb2, inference_pb2

if TYPE_CHECKING:
    from first_core.domain.admission import Progress
    from first_core.domain.catalog import Endpoint
    from first_core.domain.explaining import Explanation, Verdict
    from first_core.domain.routes import Model

_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_NO_PIN: Final = Pin()
_OPERATIONS: Final = {int(operation): operation for operation in Operation}
_PRIORITIES: Final = {inference_pb2.PRIORITY_BATCH: Priority.BATCH}
JSON: Final = "application/json"


def incoming_call(
    request: inference_pb2.CallRequest, metadata: Any, time_remaining_s: float | None
) -> IncomingCall:
    """Return the call that a request asks for.

    Args:
        request: As the client sent it.
        metadata: The RPC's invocation metadata: pairs of key and value.
        time_remaining_s: Seconds until the RPC's deadline; `None` without one.

    Raises:
        InvalidRequestError: A field is missing or out of range.
    """
    operation = _OPERATIONS.get(request.operation)
    if operation is None:
        raise InvalidRequestError(
            "`operation` must be set to a known operation", metadata={"field": "operation"}
        )
    found = dict(metadata or ())
    return IncomingCall(
        operation=operation,
        body=request.body,
        content_type=request.content_type or JSON,
        model=request.model,
        pin=_pin(request),
        headers=request.headers,
        request_id=request_id(found.get("x-request-id", "")),
        trace=_trace(found),
        first_chunk_timeout_s=_first_chunk_timeout(request),
        time_remaining_s=time_remaining_s,
        session_key=request.session_key,
        wait_budget_s=_wait_budget(request),
        priority=_PRIORITIES.get(request.priority, Priority.INTERACTIVE),
        continues=not request.continuation_disabled,
    )


def request_id(given: str) -> str:
    """Return the client's id if it is 1 to 128 visible ASCII characters, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _pin(request: inference_pb2.CallRequest) -> Pin:
    if not request.HasField("pin"):
        return _NO_PIN
    return Pin(request.pin.cluster, request.pin.framework, request.pin.replica)


def _trace(metadata: dict[str, str]) -> TraceContext | None:
    traceparent = metadata.get("traceparent")
    if not traceparent:
        return None
    return TraceContext.parse(traceparent, metadata.get("tracestate", ""))


def _first_chunk_timeout(request: inference_pb2.CallRequest) -> float | None:
    if not request.HasField("first_chunk_timeout"):
        return None
    seconds = request.first_chunk_timeout.ToMilliseconds() / 1000
    if seconds <= 0:
        raise InvalidRequestError(
            "`first_chunk_timeout` must be above 0", metadata={"field": "first_chunk_timeout"}
        )
    return seconds


def _wait_budget(request: inference_pb2.CallRequest) -> float | None:
    if not request.HasField("wait_budget"):
        return None
    return max(0.0, request.wait_budget.ToMilliseconds() / 1000)


def progress_message(progress: Progress) -> inference_pb2.CallProgress:
    """Return why a call waits."""
    message = inference_pb2.CallProgress(
        state=_state(progress.state), queue_position=progress.queue_position
    )
    if progress.expected_wait_s is not None:
        message.expected_wait.CopyFrom(_duration(progress.expected_wait_s))
    return message


def head_message(head: Head) -> inference_pb2.CallHead:
    """Return who answers."""
    return inference_pb2.CallHead(
        endpoint=_ref(head.endpoint),
        attempt_count=head.attempt_count,
        content_type=head.content_type,
    )


def trailer_message(trailer: Trailer) -> inference_pb2.CallTrailer:
    """Return what a call used; without usage the counts stay unset."""
    message = inference_pb2.CallTrailer(
        usage_source=inference_pb2.USAGE_SOURCE_NONE,
        duration=_duration(trailer.duration_s),
        finish_reasons=trailer.finish_reasons,
        continuation_count=trailer.continuation_count,
    )
    if trailer.first_chunk_s is not None:
        message.first_chunk_time.CopyFrom(_duration(trailer.first_chunk_s))
    if trailer.usage is not None:
        message.usage_source = inference_pb2.USAGE_SOURCE_UPSTREAM
        message.input_token_count = trailer.usage.input_token_count
        message.output_token_count = trailer.usage.output_token_count
        message.cached_token_count = trailer.usage.cached_token_count
    return message


def model_message(model: Model) -> catalog_pb2.Model:
    """Return one model of the catalog."""
    return catalog_pb2.Model(
        id=model.id,
        create_time=_timestamp(model.create_time),
        owner=model.owner,
        context_window_token_count=model.context_window_token_count,
        operations=sorted(_operation(operation) for operation in model.operations),
        state=_state(model.state),
    )


def endpoint_message(endpoint: Endpoint) -> catalog_pb2.Endpoint:
    """Return one endpoint of the catalog."""
    report = endpoint.report
    message = catalog_pb2.Endpoint(
        ref=_ref(report.id),
        state=_state(report.state),
        state_reason=report.state_reason,
        state_time=_timestamp(endpoint.state_time),
        backend=endpoint.backend_kind,
        operations=sorted(_operation(operation) for operation in report.operations),
    )
    if report.expected_wait_s is not None:
        message.expected_wait.CopyFrom(_duration(report.expected_wait_s))
    if report.load is not None:
        message.load.running_count = report.load.running_count or 0
        message.load.waiting_count = report.load.waiting_count or 0
        message.load.cache_usage_ratio = report.load.cache_usage_ratio or 0.0
    return message


def operation_of(number: int) -> Operation | None:
    """Return an operation, chat where none is named; `None`: it is not known."""
    return Operation.CHAT if number == 0 else _OPERATIONS.get(number)


def explanation_message(found: Explanation) -> catalog_pb2.ExplainRouteResponse:
    """Return where a call would go."""
    return catalog_pb2.ExplainRouteResponse(
        model=found.model,
        policy=found.policy,
        candidates=map(_candidate_message, found.candidates),
        fallbacks=found.fallbacks,
        outcome=found.outcome,
    )


def _candidate_message(verdict: Verdict) -> catalog_pb2.RouteCandidate:
    target, endpoint = verdict.target, verdict.target.endpoint
    message = catalog_pb2.RouteCandidate(
        endpoint=endpoint_message(endpoint),
        chosen=verdict.chosen,
        reason=verdict.reason,
        policy_note=verdict.policy_note,
        weight=target.weight,
        in_flight_count=target.outstanding_count,
        queued_count=target.queued_count,
        breaker_open=endpoint.breaker.is_open,
    )
    if endpoint.gate.bound.limit < UNBOUNDED:
        message.in_flight_limit = endpoint.gate.bound.limit
    if target.first_chunk_s is not None:
        message.first_chunk_time.CopyFrom(_duration(target.first_chunk_s))
    if verdict.spared_s > 0:
        message.spared_time.CopyFrom(_duration(verdict.spared_s))
    return message


def _ref(endpoint: EndpointId) -> common_pb2.EndpointRef:
    return common_pb2.EndpointRef(
        cluster=endpoint.cluster,
        framework=endpoint.framework,
        model=endpoint.model,
        replica=endpoint.replica,
    )


# Numbers of our enums equal those of the protos; a test compares them.
def _operation(operation: Operation) -> common_pb2.Operation:
    return operation  # type: ignore[return-value]


def _state(state: int) -> common_pb2.EndpointState:
    return state  # type: ignore[return-value]


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _timestamp(seconds: float) -> Timestamp:
    whole = int(seconds)
    return Timestamp(seconds=whole, nanos=int((seconds - whole) * 1e9))
