"""Answers as they stand on the wire, for the simulator's fault `Raw`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
LAST_CHUNK: Final = b"0\r\n\r\n"


class Turns(asyncio.Event):
    """A gate that opens by itself after some turns of the loop.

    What a script sends before and after it reaches the backend apart.
    """

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self._count = count

    async def wait(self) -> Literal[True]:
        """Let the loop turn."""
        for _ in range(self._count):
            await asyncio.sleep(0)
        return True


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Return a status line and headers, with the blank line after them."""
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{key}: {value}" for key, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def whole(
    body: bytes,
    *,
    status: int = 200,
    content_type: str = JSON,
    headers: Mapping[str, str] | None = None,
    length: int | None = None,
) -> bytes:
    """Return an answer with its length told, `length` where that is to be a lie."""
    size = len(body) if length is None else length
    fields = {"content-type": content_type, "content-length": str(size), **(headers or {})}
    return head(status, fields) + body


STREAM_HEAD: Final = head(200, {"content-type": EVENT_STREAM, "transfer-encoding": "chunked"})


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def streamed(*pieces: bytes) -> bytes:
    """Return a whole stream, each piece as one chunk."""
    return STREAM_HEAD + b"".join(chunk(piece) for piece in pieces) + LAST_CHUNK
