"""Cutting a byte stream into events."""

from __future__ import annotations

import pytest

from first_core.domain.events import EventCutter, payload, split

GOLDEN = (
    'data: {"a":"é漢🙂"}\n\n: comment\n\nevent: x\ndata: 1\ndata: 2\n\ndata: [DONE]\n\n'.encode()
)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
def test_events_are_the_same_wherever_the_stream_is_cut(newline: bytes) -> None:
    """At each offset, UTF-8 and line ends included, the bytes come out whole and in order."""
    golden = GOLDEN.replace(b"\n", newline)
    for offset in range(len(golden) + 1):
        cutter = EventCutter(1000)
        first = cutter.feed(golden[:offset])
        both = first + cutter.feed(golden[offset:])

        assert both + cutter.rest() == golden
        assert first == b"" or first.endswith(newline * 2)


def test_events_survive_byte_by_byte() -> None:
    """A stream that drips byte by byte comes out as whole events."""
    cutter = EventCutter(1000)
    out = [cutter.feed(GOLDEN[i : i + 1]) for i in range(len(GOLDEN))]

    assert [part for part in out if part] == split(GOLDEN)


def test_begun_event_is_kept_back() -> None:
    """Half an event is not handed out."""
    cutter = EventCutter(1000)

    assert cutter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert cutter.rest() == b"data: 2"


def test_event_is_bounded() -> None:
    """An event that never ends does not fill the memory."""
    cutter = EventCutter(10)
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        cutter.feed(b"data: 0123456789")


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data:x\r\n\r\n", b"x"),
        (b"event: e\ndata: 1\ndata:  2\n\n", b"1\n 2"),
        (b": comment\n\n", b""),
    ],
)
def test_payload_joins_data_lines(event: bytes, data: bytes) -> None:
    """One space after the colon is dropped; several lines are joined by LF."""
    assert payload(event) == data
