"""Names of spans and attributes.

They are those of the OpenTelemetry semantic conventions for generative AI, written here as text:
the Python constants of that convention are deprecated, since it moved to a repository of its own
(https://github.com/open-telemetry/semantic-conventions-genai, `docs/gen-ai/gen-ai-spans.md`, status
"development"). What the convention has no name for starts with `first.`.
"""

from __future__ import annotations

from typing import Final

from first_core.types import Operation

GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
"""See `genai_operation`."""
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
"""The model that the client asked for."""
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
"""The model that the answer names."""
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
"""Why each choice ended, in order."""
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""Tokens of the prompt, as the upstream told them."""
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
"""Tokens of the answer, as the upstream told them."""
ERROR_TYPE: Final = "error.type"
"""A name of `first.v1.ErrorReason` without its prefix, or `CANCELLED`. Source: OpenTelemetry
semantic conventions, "Recording errors"."""
FIRST_REQUEST_ID: Final = "first.request_id"
"""Id of the request that brought the call."""
FIRST_CLUSTER: Final = "first.cluster"
"""Cluster of the endpoint. Addresses of servers stay out of traces: they can be secret."""
FIRST_FRAMEWORK: Final = "first.framework"
"""Framework of the endpoint."""
FIRST_ATTEMPT: Final = "first.attempt"
"""Which attempt of its call this is, from 1."""
FIRST_ATTEMPT_COUNT: Final = "first.attempt_count"
"""Attempts of the call that were begun."""
FIRST_STREAMED: Final = "first.streamed"
"""Whether a stream was asked for."""

_OPERATIONS: Final[dict[Operation, str]] = {
    Operation.CHAT: "chat",
    Operation.MESSAGE: "chat",
    Operation.RESPONSE: "chat",
    Operation.COMPLETION: "text_completion",
    Operation.EMBEDDING: "embeddings",
}


def genai_operation(operation: Operation) -> str:
    """Return the convention's name of an operation.

    The convention asks for one of its own values where one applies and allows others elsewhere:
    rerank, score and the like keep our name in lower case.
    """
    return _OPERATIONS.get(operation) or operation.name.lower()


def attempt_span_name(operation: Operation, model: str) -> str:
    """Return the name of the span of one attempt: `{gen_ai.operation.name} {model}`."""
    return f"{genai_operation(operation)} {model}"
