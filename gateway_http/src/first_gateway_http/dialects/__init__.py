"""Wire formats of clients: what differs between them is how errors look."""

from __future__ import annotations

from first_core.types import Operation
from first_gateway_http.dialects.anthropic import AnthropicDialect
from first_gateway_http.dialects.base import Dialect
from first_gateway_http.dialects.openai import OpenAiDialect, ResponsesDialect

OPENAI = OpenAiDialect()
ANTHROPIC = AnthropicDialect()
RESPONSES = ResponsesDialect()

_OTHERS: dict[Operation, Dialect] = {
    Operation.MESSAGE: ANTHROPIC,
    Operation.MESSAGE_TOKEN_COUNT: ANTHROPIC,
    Operation.RESPONSE: RESPONSES,
}


def dialect_of(operation: Operation) -> Dialect:
    """Return the dialect that an operation's clients speak."""
    return _OTHERS.get(operation, OPENAI)


def dialect_of_path(path: str) -> Dialect:
    """Return the dialect of a path that leads nowhere, or of a wrong method on one."""
    return ANTHROPIC if "/v1/messages" in path else OPENAI


__all__ = ["ANTHROPIC", "OPENAI", "RESPONSES", "Dialect", "dialect_of", "dialect_of_path"]
