"""Logs: every library's records become lines, written by one thread, never by the event loop."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final, TextIO

from first_core.telemetry.log_lines import TextLine, json_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.settings import LogSettings
    from first_core.telemetry.log_lines import LineFormat

MAX_WAITING_LINES: Final = 10_000
"""Lines that may wait for the writer; those beyond are dropped and counted."""

GATHER_S: Final = 0.02
"""How long the writer lets lines gather before it writes them together, in seconds: each time it
wakes, the event loop's thread waits for the interpreter."""

CLOSE_TIMEOUT_S: Final = 2.0
"""Longest wait for lines to be written at the end, in seconds."""

FOREIGN_INTERVAL_S: Final = 60.0
"""Shortest time between two lines of one logger of OpenTelemetry, in seconds."""


class LogWriter(logging.Handler):
    """Takes records from any thread and writes them from its own.

    Args:
        line: Turns a record into a line; runs in the writer's thread.
        stream: Where lines go; belongs to the caller, who closes it after `close`.
        max_waiting: As `MAX_WAITING_LINES`.
    """

    def __init__(
        self, line: LineFormat, stream: TextIO, *, max_waiting: int = MAX_WAITING_LINES
    ) -> None:
        super().__init__()
        self._line = line
        self._stream = stream
        self._max_waiting = max_waiting
        self._waiting: collections.deque[tuple[logging.LogRecord, str] | threading.Event] = (
            collections.deque()
        )
        self._dropped_total = 0  # written by `emit` alone, under the handler's lock
        self._told_total = 0  # written by the thread alone
        self._awake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="first-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record; blocks on nothing."""
        if len(self._waiting) >= self._max_waiting or self._closing.is_set():
            self._dropped_total += 1
            return
        self._waiting.append((record, _message(record)))
        if not self._awake.is_set():
            self._awake.set()

    def flush(self) -> None:
        """Wait until what was taken is written, at most `CLOSE_TIMEOUT_S`."""
        if not self._thread.is_alive():
            return
        written = threading.Event()
        self._waiting.append(written)
        self._awake.set()
        written.wait(CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Write what is left, for at most `CLOSE_TIMEOUT_S`, and end; safe to repeat."""
        self._closing.set()
        self._awake.set()
        self._thread.join(CLOSE_TIMEOUT_S)
        super().close()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._awake.wait()
            self._closing.wait(GATHER_S)
            self._awake.clear()
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        lines: list[str] = []
        written: list[threading.Event] = []
        while self._waiting:
            item = self._waiting.popleft()
            if isinstance(item, threading.Event):
                written.append(item)
            else:
                lines.append(self._format(*item))
        dropped = self._dropped_total - self._told_total
        if dropped:
            self._told_total += dropped
            lines.append(self._own_line("log lines dropped", {"line_count": dropped}))
        self._write("".join(lines))
        for event in written:
            event.set()

    def _format(self, record: logging.LogRecord, message: str) -> str:
        try:
            return self._line(record, message)
        except Exception as exc:
            fields = {"culprit": record.name, "error": type(exc).__name__}
            return self._own_line("log line could not be formatted", fields)

    def _own_line(self, message: str, fields: Mapping[str, object]) -> str:
        record = logging.makeLogRecord(
            {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", **fields}
        )
        return self._line(record, message)

    def _write(self, text: str) -> None:
        if not text:
            return
        # When nobody reads any more there is no place left to say so.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


class _Noise(logging.Filter):
    """Keeps others' chatter out.

    Below info only our own loggers speak: others may log headers or bodies at debug. OpenTelemetry
    repeats itself while a receiver is away, and what its exporter says we say ourselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("opentelemetry."):
            return record.levelno >= logging.INFO or record.name.startswith("first_")
        if record.name.startswith("opentelemetry.exporter."):
            return False
        told_at = self._told_at.get(record.name)
        if told_at is not None and record.created - told_at < FOREIGN_INTERVAL_S:
            return False
        self._told_at[record.name] = record.created
        return True


class _Root:
    """The root logger's level before the first writer came."""

    level_before: int | None = None


def install(settings: LogSettings, stream: TextIO) -> LogWriter:
    """Send the records of all loggers of this process to `stream`, until `remove`."""
    colours = stream.isatty()
    writer = LogWriter(
        TextLine(colours=colours) if settings.format == "text" else json_line, stream
    )
    writer.addFilter(_Noise())
    writer.setLevel(settings.level.upper())
    root = logging.getLogger()
    if _Root.level_before is None:
        _Root.level_before = root.level
    root.addHandler(writer)
    root.setLevel(writer.level)
    return writer


def remove(writer: LogWriter) -> None:
    """Undo `install`, and write what is left; blocks for at most `CLOSE_TIMEOUT_S`."""
    root = logging.getLogger()
    root.removeHandler(writer)
    others = any(isinstance(handler, LogWriter) for handler in root.handlers)
    if not others and _Root.level_before is not None:
        root.setLevel(_Root.level_before)
        _Root.level_before = None
    writer.close()
