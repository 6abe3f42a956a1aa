"""Anthropic's dialect: the Messages API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_gateway_http.dialects.base import Dialect

if TYPE_CHECKING:
    from first_gateway_http.errors import Failure

_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""`error.type` by status; other 4xx: `invalid_request_error`, 5xx: `api_error`. Source: Anthropic's
API reference, "Errors". It answers 529 where we answer 503; its clients retry both."""


class AnthropicDialect(Dialect):
    """`/v1/messages` and what lies below."""

    request_id_header = "request-id"

    def error_body(self, failure: Failure, request_id: str) -> bytes:
        """Return `{"type": "error", "error": {type, message}, "request_id"}`."""
        by_class = "api_error" if failure.status >= 500 else "invalid_request_error"  # noqa: PLR2004
        error = {
            "type": _TYPES.get(failure.status, by_class),
            "message": failure.message,
        }
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})

    def error_event(self, failure: Failure, request_id: str, *, last: bytes) -> bytes:  # noqa: ARG002
        """Return the same as an `error` event."""
        return b"event: error\ndata: " + self.error_body(failure, request_id) + b"\n\n"

    def is_error_body(self, document: Any) -> bool:
        """Tell whether it says `error`, and `error.message` is there."""
        if not isinstance(document, dict) or document.get("type") != "error":
            return False
        error = document.get("error")
        return isinstance(error, dict) and isinstance(error.get("message"), str)
