"""What waits to be sent: all that is ready in one tick of the loop leaves as one message."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

import grpc

from first_core.link.frames import CALL, FRAME_COST, PART, PART_BYTES, PONG
from first_core.link.status import LinkError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_proto.link.v1 import link_pb2

CONTROL_FRAMES_PER_CALL = 8
"""Frames beside messages that one call may have waiting; more is a peer that does not read."""


class Outbox:
    """Frames in order, filled without waiting.

    Args:
        new_batch: Makes an empty `ConnectRequest` or `ConnectResponse`.
        max_batch_bytes: Where a batch is full.
        max_unsent_bytes: Where `is_full` begins.
        max_call_count: Of both sides together; bounds the frames that carry no message.
    """

    def __init__(
        self,
        new_batch: Callable[[], Any],
        *,
        max_batch_bytes: int,
        max_unsent_bytes: int,
        max_call_count: int,
    ) -> None:
        self._new_batch = new_batch
        self._max_batch_bytes = max_batch_bytes
        self._max_unsent_bytes = max_unsent_bytes
        self._max_frames = max_unsent_bytes // FRAME_COST + CONTROL_FRAMES_PER_CALL * (
            max_call_count + 1
        )
        self._last: Any = new_batch()
        self._last_bytes = 0
        self._full: deque[tuple[Any, int]] = deque()
        self._rests: dict[int, tuple[bytes, int]] = {}
        self._unsent_bytes = 0
        self._unsent_frames = 0
        self._closing = False
        self.holds_pong = False
        self._filled: asyncio.Future[None] | None = None
        self._room: list[asyncio.Future[None]] = []
        self.frame_count = 0
        self.batch_count = 0

    @property
    def is_full(self) -> bool:
        """Whether streamed answers shall wait for `wait_room`."""
        return self._unsent_bytes >= self._max_unsent_bytes

    @property
    def unsent_bytes(self) -> int:
        """What waits, beside a batch that is being sent and the rests of large messages."""
        return self._unsent_bytes

    def add(
        self, kind: int, call_id: int = 0, message: bytes | None = None, *, extra_bytes: int = 0
    ) -> link_pb2.Frame:
        """Return a new last frame, to be filled before anything is awaited.

        Args:
            kind: What it is.
            call_id: Which call.
            message: Put into it; what is too large for one frame follows in parts.
            extra_bytes: What else is put into it, about.
        """
        cost = extra_bytes + FRAME_COST
        if message is not None:
            cost += min(len(message), PART_BYTES)
        if self._last_bytes and self._last_bytes + cost > self._max_batch_bytes:
            self._full.append((self._last, self._last_bytes))
            self._last, self._last_bytes = self._new_batch(), 0
        self._last_bytes += cost
        self._unsent_bytes += cost
        self._unsent_frames += 1
        self.frame_count += 1
        if kind == PONG:
            self.holds_pong = True
        filled = self._filled
        if filled is not None and not filled.done():
            filled.set_result(None)
        frame: link_pb2.Frame = self._last.frames.add(kind=kind, call_id=call_id)
        if message is not None:
            if len(message) > PART_BYTES:
                self._rests[call_id] = (message, PART_BYTES)
                message = message[:PART_BYTES]
                frame.more = True
            frame.message = message
        return frame

    def is_sending(self, call_id: int) -> bool:
        """Tell whether parts of a message of this call are still to be sent."""
        return call_id in self._rests

    def cut_off(self, call_id: int) -> None:
        """Send no further parts of a call's message."""
        self._rests.pop(call_id, None)

    async def run(self, send: Callable[[Any], Awaitable[None]]) -> None:
        """Send what is added, until `close` was called and all is sent.

        Raises:
            LinkError: More waits than an honest peer lets wait.
        """
        while await self._wait_filled():
            batch = self._take()
            self.batch_count += 1
            self.holds_pong = False
            await send(batch)
            if self._room and not self.is_full:
                self._wake_writers()

    async def _wait_filled(self) -> bool:
        if not self._last_bytes and not self._rests and not self._closing:
            self._filled = asyncio.get_running_loop().create_future()
            await self._filled
            self._filled = None
        return bool(self._last_bytes or self._rests)

    def _take(self) -> Any:
        if self._full:
            batch, size = self._full.popleft()
            self._unsent_frames -= len(batch.frames)
        else:
            batch, size = self._last, self._last_bytes
            self._unsent_frames -= len(batch.frames)
            self._last, self._last_bytes = self._new_batch(), 0
            if self._rests:  # their first parts have been taken: they are no younger than `_last`
                self._add_part(batch)
        self._unsent_bytes -= size
        return batch

    def _add_part(self, batch: Any) -> None:
        """Add the next part of the message whose turn it is; the others' turns come first then."""
        call_id = next(iter(self._rests))
        message, begin = self._rests.pop(call_id)
        end = begin + PART_BYTES
        more = end < len(message)
        batch.frames.add(kind=PART, call_id=call_id, message=message[begin:end], more=more)
        self.frame_count += 1
        if more:
            self._rests[call_id] = (message, end)

    def check(self) -> None:
        """Raise a `LinkError` where more waits than an honest peer lets wait."""
        if self._unsent_frames > self._max_frames:
            text = f"the peer does not read: {self._unsent_frames} frames wait"
            raise LinkError(grpc.StatusCode.UNAVAILABLE, text)

    async def wait_room(self) -> None:
        """Wait until `is_full` may have changed."""
        room: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._room.append(room)
        await room

    def _wake_writers(self) -> None:
        rooms, self._room = self._room, []
        for room in rooms:
            if not room.done():
                room.set_result(None)

    def close(self) -> None:
        """Let `run` return when all is sent."""
        self._closing = True
        if self._filled is not None and not self._filled.done():
            self._filled.set_result(None)

    def drop(self) -> None:
        """Forget what waits, and let `run` return."""
        self._full.clear()
        self._rests.clear()
        self._last, self._last_bytes = self._new_batch(), 0
        self._unsent_bytes = self._unsent_frames = 0
        self.close()

    def release(self) -> None:
        """Wake all that wait for room: the link has ended."""
        self._wake_writers()

    def unsent_calls(self) -> set[int]:
        """Return the ids of the calls that have not left, or not as a whole."""
        batches = [batch for batch, _ in self._full] + [self._last]
        unsent = {f.call_id for batch in batches for f in batch.frames if f.kind == CALL}
        return unsent | self._rests.keys()
