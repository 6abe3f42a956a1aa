"""The call surface of a `grpc.aio.Channel`, over links."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from first_core.link.status import CANCELLED, Metadata, Status

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.link.calls import SentCall
    from first_core.link.connection import Link

Message: TypeAlias = Any
Receive: TypeAlias = Callable[[Message], Awaitable[None]]

MAX_LINKS_PER_CALL: Final = 3
"""Links that one call is offered to, each of which refuses it unstarted, before it fails."""


class CallSurface(ABC):
    """Makes calls on whatever link there is. The generated stubs work on it."""

    clock: Clock

    @abstractmethod
    async def link(self, deadline: float | None) -> Link | None:
        """Return a link that is open; `None`: use the plain channel.

        Raises:
            AioRpcError: There was none in time; nothing was started.
        """

    def plain(self) -> aio.Channel | None:
        """Return the channel for peers that take no links."""
        return None

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Message], bytes] | None = None,
        response_deserializer: Callable[[bytes], Message] | None = None,
        **_ignored: object,
    ) -> UnaryMethod:
        """Return the callable of a unary method."""
        return UnaryMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Callable[[Message], bytes] | None = None,
        response_deserializer: Callable[[bytes], Message] | None = None,
        **_ignored: object,
    ) -> StreamMethod:
        """Return the callable of a server-streaming method."""
        return StreamMethod(self, method, request_serializer, response_deserializer)

    def stream_unary(self, method: str, *_args: object, **_kwargs: object) -> Any:
        """Refuse: a link does not carry streamed requests."""
        raise ValueError(f"{method} streams requests; a link does not carry that")

    stream_stream = stream_unary


class _Method:
    """What calls of one method share."""

    _kind: str

    def __init__(
        self,
        surface: CallSurface,
        name: str,
        serializer: Callable[[Message], bytes] | None,
        deserializer: Callable[[bytes], Message] | None,
    ) -> None:
        self.surface = surface
        self.name = name
        self.serializer = serializer
        self.deserializer = deserializer
        self._plain: Any = None

    def plain(self) -> Any:
        """Return the method of the plain channel."""
        if self._plain is None:
            make = getattr(self.surface.plain(), self._kind)
            self._plain = make(self.name, self.serializer, self.deserializer)
        return self._plain


class UnaryMethod(_Method):
    """Starts calls of one unary method."""

    _kind = "unary_unary"

    def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Any = None,
    ) -> UnaryCall:
        """Return a call that runs when it is awaited."""
        return UnaryCall(self, request, timeout, metadata)


class StreamMethod(_Method):
    """Starts calls of one server-streaming method."""

    _kind = "unary_stream"

    def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Any = None,
    ) -> StreamCall:
        """Return a call that runs when it is pushed or read."""
        return StreamCall(self, request, timeout, metadata)


class _Call:
    """What calls of both kinds share: their start, and how they ended."""

    def __init__(
        self, method: _Method, request: Message, timeout_s: float | None, metadata: Any
    ) -> None:
        clock = method.surface.clock
        self._method = method
        self._request = request
        self._metadata: Metadata = tuple((k, v) for k, v in metadata) if metadata else ()
        self._deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        self._sent: SentCall | None = None
        self._begun: asyncio.Task[Any] | None = None
        self._status: Status | None = None
        self._link_count = 0

    async def _send(self) -> SentCall | None:
        """Send it on a link; `None`: it has to go by the plain channel."""
        method = self._method
        serializer = method.serializer
        data = serializer(self._request) if serializer else self._request
        while True:
            link = await self._link()
            if link is None:
                return None
            sent = await link.open(method.name, data, self._metadata, self._deadline)
            if self._status is not None:
                sent.cancel()
            elif self._goes_elsewhere(sent.status):
                continue
            self._sent = sent
            return sent

    def _goes_elsewhere(self, status: Status | None) -> bool:
        """Tell whether the next link may carry what this one refused or never sent."""
        if (
            status is None
            or not status.not_started
            or status.code is not grpc.StatusCode.UNAVAILABLE
        ):
            return False
        self._link_count += 1
        return self._link_count < MAX_LINKS_PER_CALL

    async def _link(self) -> Link | None:
        try:
            return await self._method.surface.link(self._deadline)
        except aio.AioRpcError as exc:
            self._status = _status_of(exc)
            raise

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        return max(0.0, self._deadline - self._method.surface.clock.monotonic())

    def _read_message(self, data: bytes) -> Message:
        deserializer = self._method.deserializer
        try:
            return deserializer(data) if deserializer else data
        except Exception:
            status = Status(grpc.StatusCode.INTERNAL, "Exception deserializing response!")
            self._cancel_with(status)
            raise status.error() from None

    def _cancel_with(self, status: Status) -> bool:
        if self._status is not None:
            return False
        self._status = status
        if self._sent is not None:
            self._sent.fail(status)
        return True

    def cancel(self) -> bool:
        """End the call; tell whether it had not ended."""
        if not self._cancel_with(CANCELLED):
            return False
        if self._begun is not None and self._sent is None:
            self._begun.cancel()  # it waits for a link
        return True

    def done(self) -> bool:
        """Tell whether the call has ended and its end was read."""
        return self._status is not None

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled on this side."""
        return self._status is CANCELLED

    async def code(self) -> grpc.StatusCode | None:
        """Return the status code; `None` while the end was not read."""
        return None if self._status is None else self._status.code

    async def details(self) -> str | None:
        """Return the status message; `None` while the end was not read."""
        return None if self._status is None else self._status.details

    async def initial_metadata(self) -> aio.Metadata:
        """Return nothing: a link carries no initial metadata."""
        return aio.Metadata()

    async def trailing_metadata(self) -> aio.Metadata | None:
        """Return the trailing metadata; `None` while the end was not read."""
        return None if self._status is None else aio.Metadata(*self._status.trailing)


class UnaryCall(_Call):
    """One unary call; await it, in the task that it shall run in."""

    _answer: Message = None

    def __await__(self) -> Generator[Any, None, Message]:
        """Run the call and return its message."""
        return self._run().__await__()

    async def _run(self) -> Message:
        if self._answer is not None:
            return self._answer
        if self._status is not None:
            raise self._raised(self._status)
        self._begun = asyncio.current_task() if self._begun is None else self._begun
        try:
            self._answer = await self._exchange()
        except asyncio.CancelledError:
            self._cancel_with(CANCELLED)
            raise
        finally:
            self._begun = None
        return self._answer

    async def _exchange(self) -> Message:
        while (sent := await self._send()) is not None:
            data = await sent.next()
            if data is not None and sent.status is None:
                while await sent.next() is not None:
                    pass  # a unary answer is its end
            status = sent.status
            assert status is not None  # noqa: S101 - `next` has returned None, or it was there
            if self._goes_elsewhere(status):
                continue
            self._status = self._status or status
            if self._status.code is not grpc.StatusCode.OK:
                raise self._raised(self._status)
            if data is None:
                raise Status(grpc.StatusCode.INTERNAL, "the answer has no message").error()
            return self._read_message(data)
        plain = self._method.plain()
        return await plain(self._request, timeout=self._time_left(), metadata=self._metadata)

    def _raised(self, status: Status) -> BaseException:
        if status is CANCELLED:
            return asyncio.CancelledError()
        return status.error()


class StreamCall(_Call):
    """One streamed call: `push_into` for our own clients, `read` or `async for` for any."""

    _plain: Any = None

    async def push_into(self, receive: Receive) -> None:
        """Run the call in this task and hand each message to `receive`."""
        try:
            while (message := await self.read()) is not EOF:
                await receive(message)
        finally:
            self.cancel()  # no effect on a call that has ended

    async def read(self) -> Message:
        """Return the next message, or `grpc.aio.EOF` after the last one.

        Raises:
            AioRpcError: The call failed.
        """
        if self._status is None and self._sent is None and self._plain is None:
            await self._start()
        if self._plain is not None:
            return await self._plain.read()
        sent = self._sent
        if sent is None or self._status is not None:
            return self._ended()
        try:
            data = await sent.next()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if data is not None:
            return self._read_message(data)
        if self._status is None:
            self._status = sent.status
            if self._goes_elsewhere(self._status):
                self._status = self._sent = None
                return await self.read()
        return self._ended()

    async def _start(self) -> None:
        self._begun = asyncio.current_task()
        try:
            if await self._send() is None:
                plain = self._method.plain()
                self._plain = plain(
                    self._request, timeout=self._time_left(), metadata=self._metadata
                )
        except asyncio.CancelledError:
            self._cancel_with(CANCELLED)
            raise
        finally:
            self._begun = None

    def _ended(self) -> Message:
        status = self._status
        if status is None or status.code is grpc.StatusCode.OK:
            return EOF
        if status is CANCELLED:
            raise asyncio.CancelledError
        raise status.error()

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield each message."""
        while (message := await self.read()) is not EOF:
            yield message

    def cancel(self) -> bool:
        """End the call; tell whether it had not ended."""
        if self._plain is not None:
            return bool(self._plain.cancel())
        return super().cancel()

    def __del__(self) -> None:
        """End a call that nobody reads any more, as grpc.aio does."""
        sent = getattr(self, "_sent", None)
        if sent is not None and sent.status is None:
            sent.cancel()


def _status_of(error: aio.AioRpcError) -> Status:
    trailing: Any = error.trailing_metadata() or ()
    return Status(error.code(), error.details() or "", tuple(trailing))
