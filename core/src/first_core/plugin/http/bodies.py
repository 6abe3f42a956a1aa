"""Reads of bodies only what tells an answer from an error."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

_ANSWER_KEYS: Final = frozenset(
    {
        "choices",  # chat, completion
        "content",  # message
        "data",  # embedding, score
        "input_tokens",  # message token count
        "output",  # response; a failed one has `error` too
        "prompt",  # detokenize
        "results",  # rerank
        "text",  # transcription
        "tokens",  # tokenize
    }
)
"""Each operation's answer has one of these at its top level, and then `error` belongs to it."""

_STATUS_KEYS: Final = ("code", "status", "status_code")

_MAX_MESSAGE_CHARS: Final = 1024
"""Longest message taken from an upstream; it travels as gRPC status text beside the body."""

_UNREADABLE: Final = (ValueError, RecursionError)
"""What decoders raise; msgspec's errors are `ValueError`s too."""


class _Probe(msgspec.Struct):
    error: msgspec.Raw = msgspec.Raw(b"")


_probe = msgspec.json.Decoder(_Probe)
_syntax = msgspec.json.Decoder(msgspec.Raw)


class NoJsonError(Exception):
    """The body is not JSON."""


def embedded_error(body: bytes) -> dict[str, Any] | None:
    """Return the body of an answer as fields if it is an error in disguise, else `None`.

    Costs about 1 µs per 600 bytes: it skims, and decodes only what has a top-level `error`.

    Raises:
        NoJsonError: It is not JSON, for example cut short.
    """
    try:
        found = _probe.decode(body).error
    except msgspec.ValidationError:  # JSON, but no object
        _check_json(body)
        return None
    except _UNREADABLE:
        _check_json(body)
        return _error_fields(body)
    return _error_fields(body) if bytes(found) not in {b"", b"null"} else None


def _check_json(body: bytes) -> None:
    try:
        _syntax.decode(body)
    except _UNREADABLE:
        # The standard library takes NaN and Infinity, which some servers send and clients read.
        try:
            json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise NoJsonError from exc


def _error_fields(body: bytes) -> dict[str, Any] | None:
    fields = _fields(body)
    return fields if fields.get("error") and not _ANSWER_KEYS & fields.keys() else None


def status_of(fields: dict[str, Any]) -> int | None:
    """Return the HTTP status from 400 to 599 that an error body names, if it names one."""
    inner = fields.get("error")
    for place in (inner if isinstance(inner, dict) else {}, fields):
        for key in _STATUS_KEYS:
            value = place.get(key)
            if isinstance(value, str) and value.isdecimal() and value.isascii():
                value = int(value[:4])
            if isinstance(value, int) and 400 <= value <= 599:  # noqa: PLR2004 - HTTP's errors
                return value
    return None


def message_of(body: bytes) -> str:
    """Return the message in an upstream's error body, shortened; empty where there is none.

    Known shapes: `{"error": {"message"}}` (OpenAI, Anthropic), `{"error": "…"}` and
    `{"detail": …}` (vLLM, FastAPI), `{"message"}` (older vLLM).
    """
    fields = _fields(body)
    inner = fields.get("error")
    detail = fields.get("detail")
    first = detail[0] if isinstance(detail, list) and detail else None
    for value in (
        inner.get("message") if isinstance(inner, dict) else inner,
        fields.get("message"),
        first.get("msg") if isinstance(first, dict) else detail,
    ):
        if isinstance(value, str) and value.strip():
            return value.strip()[:_MAX_MESSAGE_CHARS]
    return ""


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except _UNREADABLE:
        return {}
    return fields if isinstance(fields, dict) else {}
