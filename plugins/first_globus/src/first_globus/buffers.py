"""Buffers of Globus Compute: arguments packed, results read as data and never run.

A buffer is an id of two characters, a newline, and content; packing puts its length in characters
before it. Only JSON, id `11`, is written and read here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

JSON_PREFIX: Final = "11\n"
"""Begins a buffer with JSON text."""

RESULT_MARK: Final = b"\x01"
"""First byte of messages from agents."""


class UnreadableResultError(Exception):
    """Bytes that are no result in the one form that is read."""


@dataclass(frozen=True, slots=True)
class TaskResult:
    """How one task ended."""

    task_id: str
    data: str = field(repr=False)
    """A buffer, or where it failed, a traceback."""
    error_code: str = ""
    """The agent's code; empty: it did not fail."""


class _ErrorDetails(msgspec.Struct):
    code: str = "UNKNOWN_TASK_FAILURE"


class _ResultData(msgspec.Struct):
    task_id: str
    data: str
    error_details: _ErrorDetails | None = None


class _ResultMessage(msgspec.Struct):
    message_type: str
    data: _ResultData


_results = msgspec.json.Decoder(_ResultMessage)


def pack_arguments(argument: str) -> str:
    """Return the packed buffers of a call with one positional argument, given as JSON text."""
    return _pack(f"{JSON_PREFIX}[{argument}]") + _pack(f"{JSON_PREFIX}{{}}")


def _pack(buffer: str) -> str:
    return f"{len(buffer)}\n{buffer}"


def read_message(body: bytes) -> TaskResult:
    """Return the result in a message of the broker.

    Raises:
        UnreadableResultError: It is none.
    """
    try:
        message = _results.decode(body.removeprefix(RESULT_MARK))
    except (ValueError, RecursionError) as exc:
        raise UnreadableResultError("no result message") from exc
    if message.message_type != "result":
        raise UnreadableResultError("no result message")
    data = message.data
    return TaskResult(
        data.task_id, data.data, data.error_details.code if data.error_details else ""
    )


def read_status(task_id: str, document: dict[str, Any]) -> TaskResult | None:
    """Return the result in what the web service tells of a task; `None`: it has not ended."""
    if document.get("status") == "success" and isinstance(document.get("result"), str):
        return TaskResult(task_id, document["result"])
    if document.get("status") == "failed":
        text = document.get("exception") or document.get("reason") or ""
        return TaskResult(task_id, str(text), "RemoteExecutionError")
    return None


def read_value(buffer: str) -> str:
    """Return the text of a result: a JSON string's content, or any other JSON as it stands.

    Raises:
        UnreadableResultError: The buffer does not hold JSON.
    """
    if not buffer.startswith(JSON_PREFIX):
        raise UnreadableResultError("the result is not JSON")
    text = buffer[len(JSON_PREFIX) :]
    if not text.lstrip().startswith('"'):
        return text
    try:
        return msgspec.json.decode(text, type=str)
    except (ValueError, RecursionError) as exc:
        raise UnreadableResultError("the result is not JSON") from exc
