"""Streams on their way in: what functions send, in order and complete, or an error."""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final
from uuid import uuid4

import msgspec

from first_core.errors import (
    BackendUnavailableError,
    OverloadedError,
    StreamTruncatedError,
)
from first_globus.payload import refusal_in, text_of

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.errors import FirstError
    from first_core.plugin import ChunkSink
    from first_core.plugin.watchdog import Watch
    from first_core.types import Timeouts
    from first_globus.tasks import Task

HOLD_S: Final = 1.5
"""Longest time that a request is held while the reader is behind, in seconds. Functions without
numbered chunks give a chunk up after 2 s."""

MAX_STREAMS: Final = 10_000
"""Streams at a time."""

_EVENT_STREAM: Final = "text/event-stream"


class LostChunkError(Exception):
    """A chunk cannot be taken: one before it is missing, or there is no room."""


class _Summary(msgspec.Struct):
    """What functions return at the end of a stream."""

    status: str = ""
    error: str = ""
    total_chunks: int | None = None
    groups: int | None = None


_summaries = msgspec.json.Decoder(_Summary)


class Stream:
    """One stream: requests feed it, the call that waits for it reads it.

    Functions without numbers join up to 20 lines by newlines and drop the empty ones between
    events, so each line is made an event of its own again, and counted. Ours send bytes as they
    were, with a number.

    Args:
        max_waiting_bytes: Most bytes that wait for the reader.
        clock: The time.
    """

    def __init__(self, *, max_waiting_bytes: int, clock: Clock) -> None:
        self.id = str(uuid4())
        self.credential = secrets.token_urlsafe(32)
        """What its requests prove themselves with; serves this stream only."""
        self._max_waiting_bytes = max_waiting_bytes
        self._clock = clock
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._line_count = 0
        self._group_count = 0
        self._is_numbered = False
        self._expected_groups: int | None = None
        self._is_done = False
        self._error = ""
        self._is_lost = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # The listener's side

    async def feed(self, data: str, *, number: int | None) -> None:
        """Take the next chunk; a repeated number is dropped.

        Args:
            data: Lines of events.
            number: Counts chunks from 1; `None`: the function does not number them.

        Raises:
            LostChunkError: It cannot be taken. The stream will end in an error, unless the
                function sends the very chunk again.
        """
        await self._wait_room()
        if number is None:
            self._add(self._events_of(data))
            return
        self._is_numbered = True
        if number <= self._group_count:
            return
        if number > self._group_count + 1:
            self.lose()
            raise LostChunkError
        self._group_count = number
        self._add(data.encode())

    async def _wait_room(self) -> None:
        if self._room.is_set():
            return
        timer = self._clock.call_later(HOLD_S, self._room.set)
        try:
            await self._room.wait()
        finally:
            timer.cancel()
        if self._waiting_bytes > self._max_waiting_bytes:
            self._room.clear()
            raise LostChunkError

    def _events_of(self, data: str) -> bytes:
        lines = [line for line in data.split("\n") if line.strip()]
        self._line_count += len(lines)
        # A line with a field other than `data` belongs to the event whose data follow.
        ends = ("\n" if line.startswith(("event:", "id:", "retry:")) else "\n\n" for line in lines)
        return "".join(line + end for line, end in zip(lines, ends, strict=True)).encode()

    def _add(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._waiting_bytes += len(data)
            if self._waiting_bytes > self._max_waiting_bytes:
                self._room.clear()
        self._news.set()

    def lose(self) -> None:
        """Take note that a chunk is missing for good."""
        self._is_lost = True
        self._news.set()

    def fail(self, text: str) -> None:
        """Take note that the function failed."""
        self._error = self._error or text or "failed"
        self._news.set()

    def done(self, groups: int | None) -> None:
        """Take note that the function has sent everything; `groups`: how many chunks that was."""
        self._is_done = True
        if groups is not None:
            self._expected_groups = groups
        self._news.set()

    # The call's side

    async def relay(
        self, sink: ChunkSink, task: Task, *, watch: Watch, timeouts: Timeouts, confirm_s: float
    ) -> None:
        """Pass chunks on as they come, until all of them have.

        Raises:
            FirstError: As `Backend.stream`.
        """
        task.result.add_done_callback(lambda _: self._news.set())
        written = False
        watch.expect("first_chunk", timeouts.first_chunk_s)
        while True:
            self._news.clear()
            while self._pieces:
                if not written:
                    written = True
                    sink.start(_EVENT_STREAM)
                if sink.write(self._next_piece()):
                    watch.pause()
                    await sink.drain()
                watch.expect("idle", timeouts.idle_s)
            if self._is_over(task, written=written):
                return
            if self._is_done:
                watch.expect("idle", confirm_s)
            await self._news.wait()

    def _next_piece(self) -> bytes:
        piece = self._pieces.popleft()
        self._waiting_bytes -= len(piece)
        if self._waiting_bytes <= self._max_waiting_bytes:
            self._room.set()
        return piece

    def _is_over(self, task: Task, *, written: bool) -> bool:
        if self._is_lost:
            raise _broken("a part of the answer was lost on its way", written=written)
        if self._error:
            raise self._failure(self._error, written=written)
        if self._is_done and self._expected_groups is not None:
            return self._check_count(self._expected_groups, written=written)
        if not task.result.done():
            return False
        return self._check_summary(task, written=written)

    def _check_summary(self, task: Task, *, written: bool) -> bool:
        text = text_of(task.result.result(), now_s=self._clock.time()) if not written else ""
        if written:
            result = task.result.result()
            if result.error_code:
                raise _broken("the endpoint's answer broke off", written=True)
            text = text_of(result, now_s=self._clock.time())
        try:
            summary = _summaries.decode(text)
        except (ValueError, RecursionError) as exc:
            raise _broken("the cluster's function did not stream", written=written) from exc
        if summary.error or summary.status == "error":
            raise self._failure(summary.error, written=written)
        if summary.groups is not None:
            return self._check_count(summary.groups, written=written)
        if summary.total_chunks is None or summary.total_chunks != self._line_count:
            raise _broken("a part of the answer was lost on its way", written=written)
        return self._check_begun(written=written)

    def _check_count(self, groups: int, *, written: bool) -> bool:
        if groups != self._group_count:
            raise _broken("a part of the answer was lost on its way", written=written)
        return self._check_begun(written=written)

    def _check_begun(self, *, written: bool) -> bool:
        if not written:
            raise BackendUnavailableError("the endpoint ended its answer before it began")
        return True

    def _failure(self, text: str, *, written: bool) -> FirstError:
        if written:
            return StreamTruncatedError("the endpoint's answer broke off")
        return refusal_in(text, now_s=self._clock.time()) or BackendUnavailableError(
            "the cluster's function failed"
        )


def _broken(message: str, *, written: bool) -> FirstError:
    return StreamTruncatedError(message) if written else BackendUnavailableError(message)


class Streams:
    """All streams of this process, by id.

    Args:
        max_waiting_bytes: Most bytes of one stream that wait for its reader.
        clock: The time.
    """

    def __init__(self, *, max_waiting_bytes: int, clock: Clock) -> None:
        self._max_waiting_bytes = max_waiting_bytes
        self._clock = clock
        self._streams: dict[str, Stream] = {}
        self._decoy = secrets.token_urlsafe(32)

    def open(self) -> Stream:
        """Make a stream.

        Raises:
            OverloadedError: There are too many.
        """
        if len(self._streams) >= MAX_STREAMS:
            raise OverloadedError("too many streams are open", retry_after_s=1.0)
        stream = Stream(max_waiting_bytes=self._max_waiting_bytes, clock=self._clock)
        self._streams[stream.id] = stream
        return stream

    def close(self, stream: Stream) -> None:
        """Forget a stream: its credential serves no more."""
        self._streams.pop(stream.id, None)

    def find(self, stream_id: str, credential: str) -> Stream | None:
        """Return the stream that a credential belongs to; takes as long for one that is not there.

        `None`: there is no such stream, or the credential is another's.
        """
        stream = self._streams.get(stream_id)
        expected = stream.credential if stream is not None else self._decoy
        is_right = hmac.compare_digest(credential.encode(), expected.encode())
        return stream if is_right else None
