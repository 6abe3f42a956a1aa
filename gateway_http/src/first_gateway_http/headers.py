"""What the headers of a request say beside its body."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs
from multidict import istr

from first_core.telemetry import TraceContext
from first_gateway_http.errors import invalid
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.telemetry import Span

REQUEST_ID: Final = istr("x-request-id")
API_KEY: Final = istr("x-api-key")
SESSION_IDS: Final = (istr("x-session-id"), istr("x-alcf-session-id"))
WAIT: Final = istr("x-first-wait")
PRIORITY: Final = istr("x-first-priority")
CONTINUATION: Final = istr("x-first-continuation")
TRACEPARENT: Final = istr("traceparent")
TRACESTATE: Final = istr("tracestate")

MAX_REQUEST_ID_CHARS: Final = 128
MAX_SESSION_KEY_CHARS: Final = 256
MAX_WAIT_S: Final = 86_400.0
"""Longest wait that a client may ask for: a day, as long as jobs queue."""

_PRIORITIES: Final = {
    "interactive": inference_pb2.PRIORITY_INTERACTIVE,
    "batch": inference_pb2.PRIORITY_BATCH,
}
_CONTINUATION_DISABLED: Final = {"on": False, "off": True}


def request_id_of(headers: Mapping[str, str]) -> str:
    """Return the client's request id if it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.get(REQUEST_ID)
    if given and len(given) <= MAX_REQUEST_ID_CHARS and _is_visible(given) and " " not in given:
        return given
    return os.urandom(16).hex()


def _is_visible(text: str) -> bool:
    return text.isascii() and text.isprintable()


def trace_of(headers: Mapping[str, str]) -> TraceContext | None:
    """Return the trace that the client is in."""
    traceparent = headers.get(TRACEPARENT)
    if traceparent is None:
        return None
    return TraceContext.parse(traceparent, headers.get(TRACESTATE, ""))


def metadata_of(
    headers: Mapping[str, str], request_id: str, span: Span | None = None
) -> list[tuple[str, str]]:
    """Return what travels beside the message: credential, trace and request id.

    Raises:
        InvalidRequestError: The credential has characters that gRPC cannot carry.
    """
    metadata = [("x-request-id", request_id)]
    if span is not None:
        trace = span.context
        metadata.append(("traceparent", trace.traceparent))
        if trace.tracestate:
            metadata.append(("tracestate", trace.tracestate))
    credential = headers.get(hdrs.AUTHORIZATION)
    if credential is None and (key := headers.get(API_KEY)) is not None:
        credential = f"Bearer {key}"
    if credential is not None:
        if not _is_visible(credential):
            raise invalid("the credential is not ASCII text", "authorization")
        metadata.append(("authorization", credential))
    return metadata


def session_key_of(headers: Mapping[str, str]) -> str:
    """Return the key that keeps a session's calls together; empty: none.

    Raises:
        InvalidRequestError: It is no ASCII text of 0 to 256 characters.
    """
    for name in SESSION_IDS:
        key = headers.get(name)
        if key is not None:
            if len(key) > MAX_SESSION_KEY_CHARS or not _is_visible(key):
                raise invalid(f"{name} must be ASCII text of at most 256 characters", str(name))
            return key
    return ""


def wait_budget_ms_of(headers: Mapping[str, str]) -> int | None:
    """Return how long the client wants to wait for a model, in milliseconds; `None`: not said.

    Raises:
        InvalidRequestError: It is no number of seconds from 0 to a day.
    """
    text = headers.get(WAIT)
    if text is None:
        return None
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = math.nan
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise invalid(f"{WAIT} must be seconds from 0 to {MAX_WAIT_S:g}", str(WAIT))
    return round(wait_s * 1000)


def priority_of(headers: Mapping[str, str]) -> inference_pb2.Priority | None:
    """Return which calls this one goes with while calls wait; `None`: not said.

    Raises:
        InvalidRequestError: It is neither `interactive` nor `batch`.
    """
    text = headers.get(PRIORITY)
    if text is None:
        return None
    priority = _PRIORITIES.get(text.strip().lower())
    if priority is None:
        raise invalid(f"{PRIORITY} must be interactive or batch", str(PRIORITY))
    return priority


def continuation_disabled_of(headers: Mapping[str, str]) -> bool:
    """Return whether the client forbids that a broken stream goes on at another endpoint.

    Raises:
        InvalidRequestError: It is neither `on` nor `off`.
    """
    text = headers.get(CONTINUATION)
    if text is None:
        return False
    disabled = _CONTINUATION_DISABLED.get(text.strip().lower())
    if disabled is None:
        raise invalid(f"{CONTINUATION} must be on or off", str(CONTINUATION))
    return disabled


def forwarded(headers: Mapping[str, str], names: tuple[istr, ...]) -> dict[str, str] | None:
    """Return the headers of `names` that the client sent, lower case; `None`: none of them.

    One with characters outside ASCII is left out: HTTP gives them no meaning (RFC 9110, 5.5).
    """
    found = {
        name.lower(): value
        for name in names
        if (value := headers.get(name)) is not None and _is_visible(value)
    }
    return found or None
