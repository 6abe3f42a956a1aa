"""Metrics, traces and logs: the names of all of them, and one object that makes them.

Plugins may import from here, and from here only.
"""

from __future__ import annotations

from first_core.telemetry.conventions import (
    ERROR_TYPE,
    FIRST_ATTEMPT,
    FIRST_ATTEMPT_COUNT,
    FIRST_CLUSTER,
    FIRST_FRAMEWORK,
    FIRST_REQUEST_ID,
    FIRST_STREAMED,
    GEN_AI_OPERATION_NAME,
    GEN_AI_REQUEST_MODEL,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    attempt_span_name,
    genai_operation,
)
from first_core.telemetry.metrics import Metrics
from first_core.telemetry.process import Telemetry
from first_core.telemetry.records import CANCELLED, UNKNOWN_MODEL, CallRecord, error_class
from first_core.telemetry.traces import AttributeValue, Span, SpanKind, TraceContext

__all__ = [
    "CANCELLED",
    "ERROR_TYPE",
    "FIRST_ATTEMPT",
    "FIRST_ATTEMPT_COUNT",
    "FIRST_CLUSTER",
    "FIRST_FRAMEWORK",
    "FIRST_REQUEST_ID",
    "FIRST_STREAMED",
    "GEN_AI_OPERATION_NAME",
    "GEN_AI_REQUEST_MODEL",
    "GEN_AI_RESPONSE_FINISH_REASONS",
    "GEN_AI_RESPONSE_MODEL",
    "GEN_AI_USAGE_INPUT_TOKENS",
    "GEN_AI_USAGE_OUTPUT_TOKENS",
    "UNKNOWN_MODEL",
    "AttributeValue",
    "CallRecord",
    "Metrics",
    "Span",
    "SpanKind",
    "Telemetry",
    "TraceContext",
    "attempt_span_name",
    "error_class",
    "genai_operation",
]
