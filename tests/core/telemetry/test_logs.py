from __future__ import annotations

import io
import json
import logging
import re
import threading
from typing import TYPE_CHECKING, Any

import pytest

from first_core.settings import LogSettings
from first_core.telemetry import logs
from first_core.telemetry.log_lines import TextLine, json_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import LogStream

log = logging.getLogger("first_core.test")


@pytest.fixture
def writer(stream: LogStream) -> Iterator[logs.LogWriter]:
    writer = logs.install(LogSettings(level="debug"), stream)
    yield writer
    logs.remove(writer)


def one_line(writer: logs.LogWriter, stream: LogStream) -> dict[str, Any]:
    writer.flush()
    (line,) = stream.lines()
    return line


def test_line_is_one_json_object(writer: logs.LogWriter, stream: LogStream) -> None:
    """Time, level, logger and message stand apart from the fields."""
    log.warning("endpoint lost", extra={"endpoint": "a/b/c", "attempt": 2, "ratio": 0.5})

    line = one_line(writer, stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "warning",
        "logger": "first_core.test",
        "message": "endpoint lost",
        "endpoint": "a/b/c",
        "attempt": 2,
        "ratio": 0.5,
    }


def test_line_has_the_arguments_of_a_library(writer: logs.LogWriter, stream: LogStream) -> None:
    """Others' messages with arguments read as they meant them."""
    log.info("%s of %d", "one", 2)

    assert one_line(writer, stream)["message"] == "one of 2"


def test_line_has_the_exception(writer: logs.LogWriter, stream: LogStream) -> None:
    """What was raised stands in one field of the same line."""
    log.error("failed", exc_info=ValueError("what went wrong"))

    exception = one_line(writer, stream)["exception"]
    assert exception == "ValueError: what went wrong"


@pytest.mark.parametrize(
    "hostile",
    [
        "two\nlines",
        "carriage\rreturn",
        "\x1b[31mred",
        "\x9b31m",
        "\u2028separator",
        "lone \ud800 surrogate",
        "\x00",
    ],
)
def test_hostile_text_stays_inside_its_line(
    writer: logs.LogWriter, stream: LogStream, hostile: str
) -> None:
    """No value can begin a line of its own or steer a terminal."""
    log.warning(hostile, extra={"model": hostile})

    line = one_line(writer, stream)
    assert line["message"] == line["model"] == hostile
    assert stream.getvalue().isascii()
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        (b"abc", "3 bytes"),
        (OSError("x"), "x"),
        (None, None),
        ([[[[[[1]]]]]], [[[["[[1]]"]]]]),
        (list(range(1000)), list(range(100))),
    ],
)
def test_any_value_can_be_a_field(
    writer: logs.LogWriter, stream: LogStream, given: object, written: object
) -> None:
    """Values become plain, bounded JSON."""
    log.info("x", extra={"value": given})

    assert one_line(writer, stream)["value"] == written


def test_field_cannot_replace_what_every_line_has(
    writer: logs.LogWriter, stream: LogStream
) -> None:
    """A field named like one of ours gets a name of its own."""
    log.info("x", extra={"level": "fake"})

    line = one_line(writer, stream)
    assert (line["level"], line["level_"]) == ("info", "fake")


class Unspeakable:
    def __str__(self) -> str:
        raise RuntimeError


def test_field_that_cannot_be_written_costs_its_line_only(
    writer: logs.LogWriter, stream: LogStream
) -> None:
    """A broken value is told, and the log goes on."""
    log.info("x", extra={"value": Unspeakable()})
    log.info("next")
    writer.flush()

    first, second = stream.lines()
    assert first["message"] == "log line could not be formatted"
    assert first["culprit"] == "first_core.test"
    assert second["message"] == "next"


def test_wrong_arguments_do_not_reach_the_caller(writer: logs.LogWriter, stream: LogStream) -> None:
    """A library's wrong call of its logger still gives a line."""
    writer.handle(logging.makeLogRecord({"name": "x", "levelno": 20, "msg": "%d", "args": ("a",)}))

    assert one_line(writer, stream)["message"] == "%d"


def test_debug_of_others_is_kept_out(writer: logs.LogWriter, stream: LogStream) -> None:
    """Others may log bodies and headers at debug; ours never do."""
    logging.getLogger("some.library").debug("body")
    logging.getLogger("first_vllm.backend").debug("probe")

    assert one_line(writer, stream)["message"] == "probe"


def test_opentelemetry_is_heard_once_a_minute(writer: logs.LogWriter, stream: LogStream) -> None:
    """What it repeats while a receiver is away does not fill the log; what it exports we tell."""
    for _ in range(3):
        logging.getLogger("opentelemetry.sdk").warning("queue full")
        logging.getLogger("opentelemetry.exporter.otlp").error("away")

    assert one_line(writer, stream)["message"] == "queue full"


def test_level_is_obeyed(stream: LogStream) -> None:
    """Records below the level cost no line."""
    writer = logs.install(LogSettings(level="warning"), stream)
    log.info("quiet")
    log.warning("loud")
    logs.remove(writer)

    assert [line["message"] for line in stream.lines()] == ["loud"]


def test_remove_leaves_nothing_behind(stream: LogStream) -> None:
    """Handlers, level and threads are as they were, in whatever order writers go."""
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    first = logs.install(LogSettings(level="debug"), stream)
    second = logs.install(LogSettings(level="error"), stream)
    logs.remove(first)
    logs.remove(second)

    assert (root.level, root.handlers) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "first-log"]


def test_close_writes_what_waits_and_may_repeat(stream: LogStream) -> None:
    """No line is lost at the end."""
    writer = logs.LogWriter(json_line, stream)
    for number in range(100):
        writer.handle(logging.makeLogRecord({"msg": f"{number}"}))
    writer.close()
    writer.close()

    assert [line["message"] for line in stream.lines()] == [f"{n}" for n in range(100)]


class GatedStream(io.StringIO):
    """A stream whose reader is stuck until the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.gate = threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.gate.wait()
        return super().write(text)


def test_lines_beyond_the_bound_are_dropped_and_counted() -> None:
    """A reader that is stuck costs lines, never memory or the caller's time; a line tells."""
    stream = GatedStream()
    writer = logs.LogWriter(json_line, stream, max_waiting=2)
    writer.handle(logging.makeLogRecord({"msg": "taken"}))
    stream.entered.wait()
    for number in range(5):
        writer.handle(logging.makeLogRecord({"msg": f"{number}"}))
    stream.gate.set()
    writer.close()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in lines] == ["taken", "0", "1", "log lines dropped"]
    assert lines[-1]["line_count"] == 3


def test_closed_stream_harms_nobody() -> None:
    """When nobody reads any more the process goes on."""
    stream = io.StringIO()
    writer = logs.LogWriter(json_line, stream)
    stream.close()
    writer.handle(logging.makeLogRecord({"msg": "x"}))
    writer.close()

    assert not writer._thread.is_alive()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "coloured"), [(Terminal(), True), (io.StringIO(), False)])
def test_text_is_coloured_on_a_terminal_only(stream: io.StringIO, coloured: bool) -> None:  # noqa: FBT001
    """A file or a pipe gets no escape sequences."""
    writer = logs.install(LogSettings(format="text"), stream)
    log.warning("lost", extra={"model": "a b", "attempt": 2})
    logs.remove(writer)

    assert ("\x1b[33mWARNING" in stream.getvalue()) is coloured
    assert 'first_core.test: lost model="a b" attempt=2\n' in stream.getvalue()


def test_text_of_others_cannot_steer_the_terminal() -> None:
    """Escape sequences in a value are shown, not obeyed."""
    record = logging.makeLogRecord({"msg": "", "model": "\x1b[2J", "levelname": "INFO"})

    line = TextLine(colours=True)(record, "a\x1b[31m\nb")
    assert "\x1b[2J" not in line
    assert "\x1b[31m" not in line
    assert line.count("\n") == 1
