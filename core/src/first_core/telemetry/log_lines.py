"""Turns log records into lines: JSON for machines, text for a person at a terminal."""

from __future__ import annotations

import datetime as dt
import json
import logging
import math
import traceback
from typing import Any, Final, Protocol

from first_core.telemetry.redaction import redact_field, redact_text

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes that every record has; all others came by `extra`."""

_COLOURS: Final = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m"}
_COLOURS_OFF: Final = "\x1b[0m"


class LineFormat(Protocol):
    """Turns one record into one line, its end included."""

    def __call__(self, record: logging.LogRecord, message: str) -> str:
        """Return the line.

        Args:
            record: The record.
            message: Its message, with its arguments in it.
        """


def json_line(record: logging.LogRecord, message: str) -> str:
    """Return one JSON object: `time`, `level`, `logger`, `message`, the fields, `exception`.

    Only ASCII stands in it, so a hostile value can neither begin a line nor steer a terminal.
    """
    line: dict[str, Any] = {
        "time": _rfc3339(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": redact_text(message),
    }
    for key, value in _fields(record).items():
        line[f"{key}_" if key in line else key] = _finite(value)
    exception = _exception(record)
    if exception:
        line["exception"] = exception
    return json.dumps(line, separators=(",", ":")) + "\n"


class TextLine:
    """Returns lines for a person.

    Args:
        colours: Whether levels are coloured; only a terminal understands that.
    """

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours

    def __call__(self, record: logging.LogRecord, message: str) -> str:
        """Return time, level, logger, message and fields; an exception follows below."""
        time = dt.datetime.fromtimestamp(record.created).astimezone()
        level = self._coloured(record.levelname)
        fields = "".join(f" {key}={_text(value)}" for key, value in _fields(record).items())
        head = (
            f"{time:%H:%M:%S} {level} {record.name}: {_printable(redact_text(message))}{fields}\n"
        )
        exception = _exception(record)
        return f"{head}{_printable(exception, keep=chr(10))}\n" if exception else head

    def _coloured(self, level: str) -> str:
        colour = _COLOURS.get(level) if self._colours else None
        return f"{colour}{level:<7}{_COLOURS_OFF}" if colour else f"{level:<7}"


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: redact_field(key, value) for key, value in vars(record).items() if key not in _STANDARD
    }


def _exception(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return redact_text("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))


def _rfc3339(time_s: float) -> str:
    moment = dt.datetime.fromtimestamp(time_s, dt.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _finite(value: Any) -> Any:
    # JSON has no NaN and no infinity.
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(_finite(value))
    return text if text.isprintable() and " " not in text and text else json.dumps(text)


def _printable(text: str, *, keep: str = "") -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)
