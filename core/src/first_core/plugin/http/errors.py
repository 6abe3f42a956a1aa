"""One table from what an upstream did to the error that leaves a backend.

| Upstream | Error | Work started |
|---|---|---|
| refuses the connection, DNS or TLS fails | `BackendUnavailableError` | no |
| ends the connection before its answer ended | `BackendUnavailableError` | may be |
| the same after the first byte went on | `StreamTruncatedError` | may be |
| sends what is not HTTP, not JSON, not events | `BackendUnavailableError` | may be |
| exceeds a bound | `BackendTimeoutError`, from `first_core.plugin.watchdog` | unless connecting |
| 401, 402, 407: refuses our own credential | `BackendUnavailableError`, without its body | no |
| 408 | `BackendTimeoutError` | may be |
| 429 | `LimitExceededError` with `Retry-After` | no |
| 503, 529 | `OverloadedError` with `Retry-After` | no |
| other 4xx | `UpstreamRejectedError`, status and body unchanged | no |
| 501 | `UnsupportedError`, with its message | no |
| other 5xx | `BackendUnavailableError`, without its body | may be |
| 3xx, never followed | `BackendUnavailableError`, without its body | no |

Callers see neither address nor credential; where a body quotes a credential of ours, it is dropped.
"""

from __future__ import annotations

import email.utils
import re
from typing import TYPE_CHECKING, Final

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    LimitExceededError,
    OverloadedError,
    StreamTruncatedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.plugin.http.bodies import message_of
from first_core.plugin.http.transport import ConnectError, DisconnectedError
from first_core.types import MAX_UPSTREAM_ERROR_BYTES, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from first_core.errors import FirstError
    from first_core.plugin.http.transport import CarrierError, Head

MAX_ERROR_BODY_BYTES: Final = 64 * 1024
"""How much of an error body is read, for its message. The connection is closed beyond it."""

CREDENTIAL_STATUSES: Final = frozenset({401, 402, 407})
"""An upstream answers these where it does not take the gateway's own credential."""

_MIN_SECRET_CHARS: Final = 8
"""Shorter values of headers are no credentials, and would be found in many bodies."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def is_refused_credential(error: FirstError) -> bool:
    """Return whether an upstream did not take the gateway's own credential."""
    return isinstance(error, BackendUnavailableError) and error.metadata.get("http_status") in {
        str(status) for status in CREDENTIAL_STATUSES
    }


def from_carrier(error: CarrierError, *, written: bool) -> FirstError:
    """Return the error for an exchange that failed below HTTP.

    Args:
        error: What happened.
        written: Whether a byte of the answer has already been passed on.
    """
    if written:
        return StreamTruncatedError("the endpoint's answer broke off")
    if isinstance(error, ConnectError):
        return BackendUnavailableError("the endpoint cannot be reached", work_started=False)
    if isinstance(error, DisconnectedError):
        return BackendUnavailableError("the endpoint closed the connection before its answer ended")
    return no_answer()


def no_answer() -> BackendUnavailableError:
    """Return the error for an answer that is none."""
    return BackendUnavailableError("the endpoint sent what is no answer")


def too_large(limit_bytes: int) -> BackendUnavailableError:
    """Return the error for an answer that exceeds `max_answer_bytes`."""
    return BackendUnavailableError(
        f"the endpoint's answer exceeds max_answer_bytes ({limit_bytes})",
        metadata={"max_answer_bytes": str(limit_bytes)},
    )


def from_status(
    head: Head, body: bytes, *, now_s: float, secrets: Iterable[str], status: int | None = None
) -> FirstError:
    """Return the error for an answer that is not a success.

    Args:
        head: Of the answer.
        body: Its body, empty where it was cut short or larger than `MAX_ERROR_BODY_BYTES`.
        now_s: Seconds since the epoch, for a `Retry-After` that is a date.
        secrets: Credentials that were sent with the request.
        status: Stands in for the status of `head` where the body tells another one.
    """
    status = status or head.status
    metadata = {"http_status": str(status)}
    if status in CREDENTIAL_STATUSES:
        return BackendUnavailableError(
            "the endpoint refused the gateway's credential", work_started=False, metadata=metadata
        )
    if status == 408:  # noqa: PLR2004 - the table names them all
        return BackendTimeoutError(
            "the endpoint gave up waiting", metadata={**metadata, "bound": "first_chunk"}
        )
    if 400 <= status <= 499 or status in {503, 529}:  # noqa: PLR2004 - the table names them all
        return _refusal(status, head, _without_secrets(body, secrets), now_s)
    if status == 501:  # noqa: PLR2004 - the table names them all
        message = message_of(_without_secrets(body, secrets))
        return UnsupportedError(message or "the endpoint does not offer this", metadata=metadata)
    return BackendUnavailableError(
        f"the endpoint failed (HTTP {status})",
        work_started=not 300 <= status <= 399,  # noqa: PLR2004 - nobody works on a redirect
        metadata=metadata,
    )


def _refusal(status: int, head: Head, body: bytes, now_s: float) -> FirstError:
    metadata = {"http_status": str(status)}
    passed_on = body if len(body) <= MAX_UPSTREAM_ERROR_BYTES else b""
    upstream = UpstreamError(status, head.get(b"content-type"), passed_on)
    if status in {429, 503, 529}:
        kind = LimitExceededError if status == 429 else OverloadedError  # noqa: PLR2004 - the table
        message = (
            "the endpoint's own limit is used up"
            if kind is LimitExceededError
            else "the endpoint is overloaded"
        )
        return kind(
            message,
            metadata=metadata,
            retry_after_s=retry_after_s(head.get(b"retry-after"), now_s),
            upstream=upstream,
        )
    message = message_of(body) or f"the endpoint refused the request (HTTP {status})"
    return UpstreamRejectedError(message, metadata=metadata, upstream=upstream)


def _without_secrets(body: bytes, secrets: Iterable[str]) -> bytes:
    for secret in secrets:
        if len(secret) >= _MIN_SECRET_CHARS and secret.encode() in body:
            return b""
    return body


def retry_after_s(value: str, now_s: float) -> float | None:
    """Return the seconds from now that a `Retry-After` header asks for, 0 or more.

    Reads both forms of RFC 9110, section 10.2.3: seconds, and an HTTP date. `None`: it is neither.
    """
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now_s)
