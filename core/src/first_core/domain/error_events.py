"""What an error event stands for: some servers answer 200 and tell the failure in the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.errors import (
    BackendUnavailableError,
    LimitExceededError,
    OverloadedError,
    StreamTruncatedError,
    UpstreamRejectedError,
)
from first_core.types import MAX_UPSTREAM_ERROR_BYTES, UpstreamError

if TYPE_CHECKING:
    from first_core.errors import FirstError
    from first_core.types import EndpointId

_JSON: Final = "application/json"

_STATUSES: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}
"""Status by `error.type`, for events that tell no number. Source: Anthropic's API reference,
"Errors"; OpenAI words the first the same."""

_OWN_CREDENTIAL: Final = frozenset({401, 402, 407})
"""The upstream does not take the gateway's own credential, which is not its client's business."""


_NOT_THE_CALL: Final = frozenset({401, 402, 407, 408, 429})
"""4xx that say nothing about the call itself: credential, time, rate."""


class _Error(msgspec.Struct):
    message: Any = ""
    type: Any = ""
    code: Any = None


class _Event(msgspec.Struct):
    error: _Error | str | None = None
    message: Any = ""
    code: Any = None


def early_error(payload: bytes, endpoint: EndpointId) -> FirstError:
    """Return the error for an event that came before anything else: as its status would be one.

    Args:
        payload: JSON of the event.
        endpoint: Who sent it.
    """
    status, said = _read(payload)
    metadata = {"endpoint": str(endpoint), "http_status": str(status)}
    upstream = UpstreamError(status, _JSON, _bounded(payload))
    if status == 429:  # noqa: PLR2004 - HTTP's own numbers
        message = "the endpoint's own limit is used up"
        return LimitExceededError(message, metadata=metadata, upstream=upstream)
    if status in {503, 529}:
        message = "the endpoint is overloaded"
        return OverloadedError(message, metadata=metadata, upstream=upstream)
    if status in _OWN_CREDENTIAL:
        message = "the endpoint refused the gateway's credential"
        return BackendUnavailableError(message, work_started=False, metadata=metadata)
    if 400 <= status <= 499:  # noqa: PLR2004 - HTTP's own numbers
        message = said or f"the endpoint refused the request (HTTP {status})"
        return UpstreamRejectedError(message, metadata=metadata, upstream=upstream)
    return BackendUnavailableError(f"the endpoint failed (HTTP {status})", metadata=metadata)


def late_error(payload: bytes, endpoint: EndpointId) -> FirstError:
    """Return the error for an event amid an answer; its JSON goes along, so nothing is lost."""
    status, said = _read(payload)
    return StreamTruncatedError(
        f"the endpoint failed: {said}" if said else "the endpoint failed amid its answer",
        metadata={"endpoint": str(endpoint), "http_status": str(status)},
        upstream=UpstreamError(500, _JSON, _bounded(payload)),
    )


def is_refusal(error: FirstError) -> bool:
    """Tell whether an error event amid a stream refuses this very call, as for its content."""
    told = error.metadata.get("http_status", "")
    return told[:1] == "4" and int(told) not in _NOT_THE_CALL


def _bounded(payload: bytes) -> bytes:
    return payload if len(payload) <= MAX_UPSTREAM_ERROR_BYTES else b""


def _read(payload: bytes) -> tuple[int, str]:
    """Return status and message of an error event; 500 where it tells no status."""
    try:
        event = msgspec.json.decode(payload, type=_Event)
    except (ValueError, RecursionError):
        return 500, ""
    inner = event.error if isinstance(event.error, _Error) else _Error(message=event.error or "")
    text = inner.message or event.message
    kind = inner.type if isinstance(inner.type, str) else ""
    status = _number(inner.code) or _number(event.code) or _STATUSES.get(kind, 500)
    return status, text if isinstance(text, str) else ""


def _number(code: object) -> int:
    if isinstance(code, str) and code.isascii() and code.isdecimal():
        code = int(code[:4])
    return code if isinstance(code, int) and 400 <= code <= 599 else 0  # noqa: PLR2004 - HTTP's errors
