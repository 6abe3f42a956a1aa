"""Calls that the peer makes: each runs its servicer in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc import aio

from first_core.link.frames import FRAME_COST, check_metadata
from first_core.link.status import EXPIRED, Metadata, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from first_core.clock import TimerHandle
    from first_core.link.connection import Link

_log = logging.getLogger(__name__)


class ServedCall:
    """One call in flight here, and what its servicer sees of it: a `grpc.aio.ServicerContext`.

    Args:
        link: Carries it.
        call_id: Its id there.
        handler: Runs it.
        metadata: What the caller sent beside the message.
        timeout_s: Time left until its deadline; `None`: it has none.
    """

    __slots__ = (
        "_code",
        "_credit",
        "_deadline",
        "_details",
        "_ended",
        "_entered",
        "_handler",
        "_metadata",
        "_timer",
        "_trailing",
        "_waiter",
        "call_id",
        "link",
        "task",
    )

    def __init__(
        self, link: Link, call_id: int, handler: Any, metadata: Metadata, timeout_s: float | None
    ) -> None:
        self.link = link
        self.call_id = call_id
        self._handler = handler
        self._metadata = metadata
        self._credit: int = link.peer_limits.initial_credit_bytes
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: Metadata = ()
        self._ended = False
        self._entered = False
        self._waiter: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._deadline: float | None = None
        self._timer: TimerHandle | None = None
        if timeout_s is not None:
            self._deadline = link.clock.monotonic() + timeout_s
            self._timer = link.clock.call_later(timeout_s, self._expire)

    # What the servicer sees.

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent beside the message."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; `None` without one."""
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self.link.clock.monotonic())

    def peer(self) -> str:
        """Return who is at the other end, as gRPC names it."""
        return self.link.peer

    def code(self) -> grpc.StatusCode:
        """Return the status code that is set so far."""
        return self._code

    def details(self) -> str:
        """Return the status message that is set so far."""
        return self._details

    def trailing_metadata(self) -> Metadata:
        """Return the trailing metadata that is set so far."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status code that the call ends with."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Set the status message that the call ends with."""
        self._details = details

    def set_trailing_metadata(self, trailing: Iterable[tuple[str, str | bytes]]) -> None:
        """Set what the caller finds after the answer."""
        self._trailing = tuple((key, value) for key, value in trailing)

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Iterable[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with a status."""
        self._code, self._details = code, details
        trailing = tuple((key, value) for key, value in trailing_metadata)
        self._trailing = trailing or self._trailing
        raise aio.AbortError

    async def write(self, message: Any) -> None:
        """Send a message of the answer, once the caller's credit and the link have room.

        Raises:
            UsageError: The call has ended.
        """
        data = self._serialized(message)
        limit = self.link.peer_limits.max_message_bytes
        if len(data) > limit:
            text = f"Sent message larger than max ({len(data)} vs. {limit})"
            await self.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        while not self._ended and (self._credit <= 0 or self.link.is_full):
            await self._wait_room()
        if self._ended:
            raise aio.UsageError("the call has ended")
        self._credit -= len(data) + FRAME_COST
        self.link.send_message(self.call_id, data)
        while self.link.is_sending(self.call_id):
            await self.link.wait_room()

    async def _wait_room(self) -> None:
        if self._credit > 0:
            await self.link.wait_room()
            return
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # What the link tells.

    def start(self, message: bytes) -> None:
        """Run the servicer."""
        self.task = asyncio.get_running_loop().create_task(self._run(message))

    def on_credit(self, credit_bytes: int) -> None:
        """Take leave to send more."""
        self._credit += credit_bytes
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def stop(self) -> None:
        """Stop the servicer; nothing is sent any more."""
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self.task is not None:
            self.task.cancel()
        if not self._entered:
            self.link.running.discard(self)  # a task that is cancelled before it runs never runs

    def _expire(self) -> None:
        self._finish(EXPIRED)
        self.stop()

    # The run.

    async def _run(self, message: bytes) -> None:
        self._entered = True
        try:
            answer = await self._answer(message)
        except asyncio.CancelledError:
            self._finish(Status(grpc.StatusCode.CANCELLED, "the servicer was cancelled"))
        except aio.AbortError:
            self._finish(self._status())
        except Exception as exc:
            if not self._ended:
                self._finish(self._failure(exc))
        else:
            self._finish(self._status(), answer)
        finally:
            self.link.running.discard(self)

    async def _answer(self, message: bytes) -> bytes | None:
        request = await self._request(message)
        if not self._handler.response_streaming:
            response = await self._handler.unary_unary(request, self)
            return self._serialized(response) if self._code is grpc.StatusCode.OK else None
        run = self._handler.unary_stream(request, self)
        if hasattr(run, "__aiter__"):
            async for response in run:
                await self.write(response)
        else:
            await run
        return None

    async def _request(self, message: bytes) -> Any:
        deserializer: Callable[[bytes], Any] | None = self._handler.request_deserializer
        try:
            return deserializer(message) if deserializer else message
        except Exception:
            await self.abort(grpc.StatusCode.INTERNAL, "Exception deserializing request!")

    def _serialized(self, message: Any) -> bytes:
        serializer: Callable[[Any], bytes] | None = self._handler.response_serializer
        return serializer(message) if serializer else message

    def _failure(self, exc: Exception) -> Status:
        if self._code is not grpc.StatusCode.OK:
            return self._status()  # as the generated base classes do for UNIMPLEMENTED
        _log.error("link_servicer_failed", exc_info=exc)
        return Status(grpc.StatusCode.UNKNOWN, f"Unexpected {type(exc)}: {exc}")

    def _status(self) -> Status:
        return Status(self._code, self._details, self._trailing)

    def _finish(self, status: Status, message: bytes | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self.link.send_end(self.call_id, *_carriable(status, message, self.link))


def _carriable(status: Status, message: bytes | None, link: Link) -> tuple[Status, bytes | None]:
    limits = link.peer_limits
    if message is not None and len(message) > limits.max_message_bytes:
        text = f"Sent message larger than max ({len(message)} vs. {limits.max_message_bytes})"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text), None
    if not status.trailing:
        return status, message
    try:
        size = check_metadata(status.trailing)
    except ValueError as exc:
        return Status(grpc.StatusCode.INTERNAL, str(exc)), None
    if size > limits.max_metadata_bytes:
        text = f"the trailing metadata is larger than {limits.max_metadata_bytes} bytes"
        return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text), None
    return status, message
