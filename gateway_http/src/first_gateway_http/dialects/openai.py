"""OpenAI's dialect, and that of its Responses API where it differs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_gateway_http.dialects.base import Dialect

if TYPE_CHECKING:
    from first_gateway_http.errors import Failure

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
"""`error.type` by status; other 4xx: `invalid_request_error`, 5xx: `server_error`. Source: what the
OpenAI and vLLM servers answer; clients branch on the status."""

_SEQUENCE: Final = re.compile(rb'"sequence_number":\s*(\d+)')


class OpenAiDialect(Dialect):
    """Chat, completions, embeddings and everything that has no dialect of its own."""

    def error_body(self, failure: Failure, request_id: str) -> bytes:  # noqa: ARG002
        """Return `{"error": {message, type, param, code}}`."""
        return msgspec.json.encode({"error": _error(failure)})

    def error_event(self, failure: Failure, request_id: str, *, last: bytes) -> bytes:  # noqa: ARG002
        """Return the same as a `data:` line: OpenAI's clients raise when they see `error` in it."""
        return b"data: " + self.error_body(failure, request_id) + b"\n\n"

    def is_error_body(self, document: Any) -> bool:
        """Tell whether `error.message` is there."""
        error = document.get("error") if isinstance(document, dict) else None
        return isinstance(error, dict) and isinstance(error.get("message"), str)


class ResponsesDialect(OpenAiDialect):
    """The Responses API: its streams have named, numbered events."""

    def error_event(self, failure: Failure, request_id: str, *, last: bytes) -> bytes:  # noqa: ARG002
        """Return an `error` event, numbered after the last one that was sent."""
        numbers = _SEQUENCE.findall(last)
        event = {
            "type": "error",
            "code": failure.code,
            "message": failure.message,
            "param": failure.param,
            "sequence_number": int(numbers[-1]) + 1 if numbers else 0,
        }
        return b"event: error\ndata: " + msgspec.json.encode(event) + b"\n\n"


def _error(failure: Failure) -> dict[str, str | None]:
    by_class = "server_error" if failure.status >= 500 else "invalid_request_error"  # noqa: PLR2004
    return {
        "message": failure.message,
        "type": _TYPES.get(failure.status, by_class),
        "param": failure.param,
        "code": failure.code,
    }
