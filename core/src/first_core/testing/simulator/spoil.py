"""What each fault does to an answer on the wire.

A spoiled exchange does not write: it hands the parts of the good answer to a task of its own,
which may wait, and which one `_Player` per fault turns into bytes. Only spoiled calls pay it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

import msgspec

from first_core.testing.simulator import faults
from first_core.testing.simulator.errors import error_body, error_fields
from first_core.testing.simulator.http import (
    EVENT_STREAM,
    JSON,
    LAST_CHUNK,
    SERVER,
    Exchange,
    Fields,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from first_core.testing.simulator.http import Connection, Request

DONE: Final = b"data: [DONE]\n\n"

_FINAL_MARKS: Final = (
    b'"finish_reason":"',
    b"event: message_delta\n",
    b"event: response.completed\n",
)
"""By these bytes an event tells how its answer ended."""

F = TypeVar("F", bound=faults.Fault)


class _EndedError(Exception):
    """The fault has ended the answer; what was still to come is dropped."""


class SpoiledExchange(Exchange):
    """An exchange whose answer passes through a fault."""

    __slots__ = ("_parts", "_player", "_task", "fault")

    def __init__(self, connection: Connection, request: Request, fault: faults.Fault) -> None:
        super().__init__(connection, request)
        self.fault = fault
        self._parts: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._player = _PLAYERS[type(fault)](self, fault)
        self._task = asyncio.get_running_loop().create_task(self._play())

    @property
    def replaces_answer(self) -> bool:
        """Whether nothing of the good answer is needed."""
        return self._player.replaces_answer

    def replace(self) -> None:
        """Send what the fault has instead of an answer."""
        self._parts.put_nowait(self._player.instead)

    def plain(
        self, status: int, body: bytes, *, content_type: str = JSON, headers: Fields = ()
    ) -> None:
        """Hand on a whole answer."""
        fields = [("content-type", content_type)] if content_type else []
        fields += headers
        self._parts.put_nowait(lambda: self._player.plain(status, fields, body))

    def begin(self) -> None:
        """Hand on the beginning of a stream."""
        self._parts.put_nowait(self._player.begin)

    def flush(self) -> None:
        """Do nothing: the task writes as soon as it may."""

    def events(self, events: Sequence[bytes]) -> None:
        """Hand on events."""
        for event in events:
            self._parts.put_nowait(partial(self._player.count_event, event))

    def end(self) -> None:
        """Hand on the end of a stream."""
        self._parts.put_nowait(self._player.end)

    def finish(self) -> None:
        """Mark the answer as complete."""
        if self.work is not None:
            self.work.stop()
        super().finish()

    def abandon(self) -> None:
        """Learn that the client has gone."""
        self._task.cancel()
        super().abandon()

    async def _play(self) -> None:
        try:
            while not self.finished:
                part = await self._parts.get()
                await part()
        except _EndedError:
            pass


class _Player(Generic[F]):
    """Writes an answer as it is; its children spoil one thing each."""

    replaces_answer: ClassVar[bool] = False

    def __init__(self, exchange: SpoiledExchange, fault: F) -> None:
        self.exchange = exchange
        self.fault = fault
        self.event_count = 0

    async def write(self, data: bytes) -> None:
        self.exchange.connection.write(data)

    async def write_body(self, data: bytes) -> None:
        """Write a part of a stream's body as one chunk."""
        if data:
            await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def instead(self) -> None:
        raise NotImplementedError

    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        await self.write(self.head(status, fields, len(body)) + body)
        self.exchange.finish()

    async def begin(self) -> None:
        fields = [("content-type", EVENT_STREAM), ("transfer-encoding", "chunked")]
        await self.write(self.exchange.head(200, fields))

    async def count_event(self, event: bytes) -> None:
        await self.event(event)
        self.event_count += 1

    async def event(self, event: bytes) -> None:
        await self.write_body(event)

    async def end(self) -> None:
        await self.write(LAST_CHUNK)
        self.exchange.finish()

    def head(self, status: int, fields: list[tuple[str, str]], length: int) -> bytes:
        return self.exchange.head(status, [*fields, ("content-length", str(length))])

    async def cut(self, *, clean: bool = False, reset: bool = False) -> None:
        """End here: raises."""
        if clean:
            await self.end()
        else:
            self.exchange.hang_up(reset=reset)
        raise _EndedError

    async def hold(self, gate: asyncio.Event | None) -> None:
        await (gate or asyncio.Event()).wait()


class _Refuse(_Player[faults.Refuse]):
    replaces_answer = True

    async def instead(self) -> None:
        self.exchange.hang_up(reset=self.fault.reset)


class _StallBeforeHead(_Player[faults.StallBeforeHead]):
    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        await self.hold(self.fault.gate)
        await super().plain(status, fields, body)

    async def begin(self) -> None:
        await self.hold(self.fault.gate)
        await super().begin()


class _StallAfterHead(_Player[faults.StallAfterHead]):
    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        await self.write(self.head(status, fields, len(body)))
        await self.hold(self.fault.gate)
        await self.write(body)
        self.exchange.finish()

    async def begin(self) -> None:
        await super().begin()
        await self.hold(self.fault.gate)


class _StallAfterEvents(_Player[faults.StallAfterEvents]):
    async def event(self, event: bytes) -> None:
        if self.event_count == self.fault.count:
            await self.hold(self.fault.gate)
        await super().event(event)


class _ErrorStatus(_Player[faults.ErrorStatus]):
    replaces_answer = True

    async def instead(self) -> None:
        fault = self.fault
        body = fault.body if fault.body is not None else error_body(fault.status, fault.message)
        fields = [("content-type", fault.content_type), *(fault.headers or {}).items()]
        await self.plain(fault.status, fields, body)


class _ErrorInside(_Player[faults.ErrorInside]):
    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:  # noqa: ARG002 - replaced
        error: dict[str, Any] = {"error": error_fields(self.fault.status, self.fault.message)}
        if self.exchange.request.path.startswith("/v1/messages"):
            error["type"] = "error"
        await super().plain(200, [("content-type", JSON)], msgspec.json.encode(error))

    async def event(self, event: bytes) -> None:
        if self.event_count < self.fault.after_events:
            await super().event(event)
            return
        error: dict[str, Any] = {"error": error_fields(self.fault.status, self.fault.message)}
        if event.startswith(b"event: "):
            error["type"] = "error"
            await super().event(b"event: error\ndata: %b\n\n" % msgspec.json.encode(error))
        else:
            await super().event(b"data: %b\n\n" % msgspec.json.encode(error))
            await super().event(DONE)
        await self.cut(clean=True)


class _Garbage(_Player[faults.Garbage]):
    replaces_answer = True

    async def instead(self) -> None:
        if self.fault.kind == "not_http":
            await self.write(b"\x00\x17SIMULATED GARBAGE \xff\xfe not a protocol at all\r\n\r\n")
            self.exchange.hang_up()
        elif self.fault.kind == "html":
            page = f"<!doctype html><html><title>{SERVER}</title><h1>It works!</h1></html>"
            await self.plain(200, [("content-type", "text/html")], page.encode())
        else:
            body = b'{"id": "chatcmpl-broken", "object": "chat.completion", "choices": [{"ind'
            await self.plain(200, [("content-type", JSON)], body)


class _BrokenEvent(_Player[faults.BrokenEvent]):
    async def event(self, event: bytes) -> None:
        if self.event_count == self.fault.after:
            await super().event(self.fault.event)
        await super().event(event)


class _CutAfterBytes(_Player[faults.CutAfterBytes]):
    def __init__(self, exchange: SpoiledExchange, fault: faults.CutAfterBytes) -> None:
        super().__init__(exchange, fault)
        self._left = fault.count

    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        kept = body[: self._left]
        if self.fault.clean:
            await super().plain(status, fields, kept)
            return
        await self.write(self.head(status, fields, len(body)) + kept)
        await self.cut(reset=self.fault.reset)

    async def event(self, event: bytes) -> None:
        await super().event(event[: self._left])
        self._left -= len(event)
        if self._left <= 0:
            await self.cut(clean=self.fault.clean, reset=self.fault.reset)


class _CutAfterEvents(_Player[faults.CutAfterEvents]):
    async def event(self, event: bytes) -> None:
        if self.event_count < self.fault.count:
            await super().event(event)
        if self.event_count + 1 >= self.fault.count:
            await self.cut(clean=self.fault.clean, reset=self.fault.reset)


class _CutInsideCharacter(_Player[faults.CutInsideCharacter]):
    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        kept = body[: _inside_character(body)]
        if self.fault.clean:
            await super().plain(status, fields, kept)
            return
        await self.write(self.head(status, fields, len(body)) + kept)
        await self.cut()

    async def event(self, event: bytes) -> None:
        place = _inside_character(event)
        await super().event(event[:place])
        if place is not None:
            await self.cut(clean=self.fault.clean)


class _NoDone(_Player[faults.NoDone]):
    async def event(self, event: bytes) -> None:
        if event != DONE and not event.startswith(b"event: message_stop\n"):
            await super().event(event)


class _DoneWithoutFinish(_Player[faults.DoneWithoutFinish]):
    async def event(self, event: bytes) -> None:
        if not any(mark in event for mark in _FINAL_MARKS):
            await super().event(event)


class _LengthMismatch(_Player[faults.LengthMismatch]):
    _held = b""

    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        await self.write(self.head(status, fields, max(0, len(body) + self.fault.by)) + body)
        await self.cut()

    async def event(self, event: bytes) -> None:
        await self.write_body(self._held)
        self._held = event

    async def end(self) -> None:
        size = max(1, len(self._held) + self.fault.by)
        await self.write(b"%x\r\n%b\r\n%b" % (size, self._held, LAST_CHUNK))
        await self.cut()


class _Slow(_Player[faults.Slow]):
    async def write(self, data: bytes) -> None:
        size = max(1, self.fault.size)
        for start in range(0, len(data), size):
            await super().write(data[start : start + size])
            await asyncio.sleep(self.fault.interval_s)


class _SplitWrites(_Player[faults.SplitWrites]):
    _sent = 0

    async def plain(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        await self.write(self.head(status, fields, len(body)))
        for piece in self._pieces(body):
            await asyncio.sleep(0)
            await self.write(piece)
        self.exchange.finish()

    async def event(self, event: bytes) -> None:
        for piece in self._pieces(event):
            await self.write_body(piece)
            await asyncio.sleep(0)

    def _pieces(self, data: bytes) -> list[bytes]:
        start, self._sent = self._sent, self._sent + len(data)
        if self.fault.at is None:
            return [data[place : place + 1] for place in range(len(data))]
        cuts = [0, *sorted(at - start for at in self.fault.at if 0 < at - start < len(data))]
        return [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)], strict=True)]


class _Raw(_Player[faults.Raw]):
    replaces_answer = True

    async def instead(self) -> None:
        for step in self.fault.script:
            if isinstance(step, bytes):
                await self.write(step)
            else:
                await self.hold(step)
        if self.fault.end == "keep":
            self.exchange.finish()
        elif self.fault.end == "hold":
            await self.hold(None)
        else:
            self.exchange.hang_up(reset=self.fault.end == "reset")


def _inside_character(data: bytes) -> int | None:
    """Return the offset behind the first byte of the first longer character."""
    for place, byte in enumerate(data):
        if byte > 0x7F:  # noqa: PLR2004 - the last ASCII byte
            return place + 1
    return None


_PLAYERS: Final[dict[type[faults.Fault], Callable[[SpoiledExchange, Any], _Player[Any]]]] = {
    faults.Refuse: _Refuse,
    faults.StallBeforeHead: _StallBeforeHead,
    faults.StallAfterHead: _StallAfterHead,
    faults.StallAfterEvents: _StallAfterEvents,
    faults.ErrorStatus: _ErrorStatus,
    faults.ErrorInside: _ErrorInside,
    faults.Garbage: _Garbage,
    faults.BrokenEvent: _BrokenEvent,
    faults.CutAfterBytes: _CutAfterBytes,
    faults.CutAfterEvents: _CutAfterEvents,
    faults.CutInsideCharacter: _CutInsideCharacter,
    faults.NoDone: _NoDone,
    faults.DoneWithoutFinish: _DoneWithoutFinish,
    faults.LengthMismatch: _LengthMismatch,
    faults.Slow: _Slow,
    faults.SplitWrites: _SplitWrites,
    faults.Raw: _Raw,
}
