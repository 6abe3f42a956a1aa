"""Cuts a byte stream into server-sent events, without changing a byte.

Format: WHATWG HTML, section 9.2.6: lines end in LF, CR or CRLF, a blank line ends an event.
"""

from __future__ import annotations

import re
from typing import Final

_END: Final = re.compile(rb"(?:\r\n|\n|\r(?=[^\n]))(?:\r\n|\n|\r(?=[^\n]))")
"""A blank line. A CR that is the last byte so far waits: it may be the first half of a CRLF."""


class EventCutter:
    """Hands out whole events as their last byte arrives and keeps the begun one.

    Args:
        max_event_bytes: Bound on what is kept.
    """

    __slots__ = ("_max_event_bytes", "_tail")

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._tail = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return all events that are whole now, maybe none.

        Raises:
            ValueError: An event is larger than the bound.
        """
        if not self._tail and data.endswith(b"\n\n"):
            return data
        searched = max(0, len(self._tail) - 3)  # an end is at most 4 bytes long
        self._tail += data
        end = _last_end(self._tail, searched)
        whole = bytes(self._tail[:end])
        del self._tail[:end]
        if len(self._tail) > self._max_event_bytes:
            raise ValueError(f"an event is larger than {self._max_event_bytes} bytes")
        return whole

    def rest(self) -> bytes:
        """Return what was kept, for when nothing more will come."""
        return bytes(self._tail)


def _last_end(data: bytearray, searched: int) -> int:
    """Return where the last whole event of `data` ends; 0: none is whole."""
    end = data.rfind(b"\n\n", searched) + 2
    if end == 1:
        end = 0
    if b"\r" in data:
        for match in _END.finditer(data, searched):
            end = max(end, match.end())
    return end


def terminated(event: bytes) -> bytes:
    """Return an event with its blank line, adding what it lacks."""
    if event.endswith((b"\n\n", b"\r\r", b"\n\r")):
        return event
    return event + (b"\n" if event.endswith((b"\n", b"\r")) else b"\n\n")


def split(events: bytes) -> list[bytes]:
    """Return whole events one by one, each with its own blank line."""
    parts = []
    start = 0
    for match in _END.finditer(events):
        parts.append(events[start : match.end()])
        start = match.end()
    if start < len(events):
        parts.append(events[start:])
    return parts


def payload(event: bytes) -> bytes:
    """Return the data of one event: its `data` lines, joined by LF; empty when it has none."""
    lines = [
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    ]
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
