"""Calls that this side makes: one that was sent, and what came back so far."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import grpc

from first_core.link.frames import FRAME_COST, metadata_in, metadata_size
from first_core.link.status import CANCELLED, CODES, EXPIRED, Metadata, Status

if TYPE_CHECKING:
    from first_core.clock import TimerHandle
    from first_core.link.connection import Link
    from first_proto.link.v1 import link_pb2


class SentCall:
    """One call in flight at the peer. Its messages are to be read by one reader.

    Args:
        link: Carries it.
        call_id: Its id there.
        deadline: Reading of the link's clock at which it ends; `None`: never.
    """

    __slots__ = (
        "_credit",
        "_eaten",
        "_link",
        "_messages",
        "_timer",
        "_waiter",
        "call_id",
        "status",
    )

    def __init__(self, link: Link, call_id: int, deadline: float | None) -> None:
        self.call_id = call_id
        self.status: Status | None = None
        self._link = link
        self._messages: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._credit = link.options.initial_credit_bytes
        self._eaten = 0
        self._timer: TimerHandle | None = None
        if deadline is not None:
            clock = link.clock
            self._timer = clock.call_later(deadline - clock.monotonic(), self._expire)

    async def next(self) -> bytes | None:
        """Return the next message; `None`: the call has ended, see `status`."""
        while not self._messages:
            if self.status is not None:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._messages.popleft()
        self._eaten += len(message) + FRAME_COST
        if self._eaten * 2 >= self._link.options.initial_credit_bytes and self.status is None:
            self._link.grant(self.call_id, self._eaten)
            self._credit += self._eaten
            self._eaten = 0
        return message

    def cancel(self) -> bool:
        """End it here and at the peer; tell whether it had not ended."""
        return self.fail(CANCELLED)

    def fail(self, status: Status) -> bool:
        """End it here with a status, and at the peer; tell whether it had not ended."""
        if self.status is not None:
            return False
        self._link.abandon(self.call_id)
        self.end(status)
        return True

    def _expire(self) -> None:
        self.fail(EXPIRED)

    # What the link tells.

    def on_message(self, message: bytes) -> None:
        """Take a message of a stream."""
        if self._credit <= 0:
            text = "the peer sent more than its credit allows"
            self.fail(Status(grpc.StatusCode.INTERNAL, text))
            return
        self._credit -= len(message) + FRAME_COST
        self._append(message)

    def on_end(self, frame: link_pb2.Frame) -> None:
        """Take the end that the peer sent."""
        if frame.HasField("message"):
            if self._too_large(len(frame.message)):
                return
            self._messages.append(frame.message)
        self.end(self._status_of(frame))

    def _status_of(self, frame: link_pb2.Frame) -> Status:
        code = CODES.get(frame.code)
        if code is None:
            text = f"the peer sent status code {frame.code}"
            return Status(grpc.StatusCode.INTERNAL, text)
        trailing: Metadata = ()
        if frame.metadata:
            limit = self._link.options.max_metadata_bytes
            if metadata_size(frame) > limit:
                text = f"the trailing metadata is larger than {limit} bytes"
                return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
            try:
                trailing = metadata_in(frame)
            except ValueError:
                return Status(grpc.StatusCode.INTERNAL, "the trailing metadata is illegal")
        return Status(code, frame.details, trailing, frame.not_started)

    def _append(self, message: bytes) -> None:
        if not self._too_large(len(message)):
            self._messages.append(message)
            self._wake()

    def _too_large(self, size: int) -> bool:
        limit = self._link.options.max_message_bytes
        if size <= limit:
            return False
        text = f"Received message larger than max ({size} vs. {limit})"
        self.fail(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
        return True

    def end(self, status: Status) -> None:
        """Take the status; messages that came before are still there to be read."""
        if self.status is None:
            self.status = status
            if self._timer is not None:
                self._timer.cancel()
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
