"""The in-process carrier: a channel whose calls run the servicer, without socket or bytes.

It has the call surface of a `grpc.aio.Channel` for unary calls and server streams, so the generated
stubs work on it, and the registering surface of a server, so the generated
`add_…Servicer_to_server` fill it. Messages, metadata, deadlines, cancellation and status are those
of gRPC. A call runs inside the caller's own `asyncio.Task`: cancelling that task cancels the
servicer, and a stream that is pushed (`push_into`) needs neither task nor queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

Message: TypeAlias = Any
Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
Write: TypeAlias = Callable[[Message], Awaitable[None]]


class DirectContext:
    """What a servicer sees of a call: the used part of `grpc.aio.ServicerContext`."""

    __slots__ = ("_deadline", "_metadata", "trailing", "write")

    def __init__(self, metadata: Metadata, timeout_s: float | None, write: Write) -> None:
        self._metadata = metadata
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.trailing: Metadata = ()
        self.write = write

    def invocation_metadata(self) -> Metadata:
        """Return what the caller sent beside the message."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; `None` without one."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def set_trailing_metadata(self, trailing: Metadata) -> None:
        """Keep what the caller finds after the answer."""
        self.trailing = tuple(trailing)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> NoReturn:
        """End the call with a status."""
        raise _failure(code, details, trailing_metadata or self.trailing)


def _failure(code: grpc.StatusCode, details: str, trailing: Metadata = ()) -> aio.AioRpcError:
    return aio.AioRpcError(
        code, aio.Metadata(), aio.Metadata(*trailing), details=details, debug_error_string=None
    )


async def _no_write(_message: Message) -> None:
    raise TypeError("a unary call has no stream to write to")


class DirectChannel:
    """Carries calls to servicers of the same process."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    # The registering surface of a server.

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Ignore: the generated code also names each method, see the next one."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Take the methods of one service."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = handler

    # The call surface of a channel.

    def unary_unary(self, method: str, *_args: object, **_kwargs: object) -> DirectUnaryMethod:
        """Return the callable of a unary method."""
        return DirectUnaryMethod(self._handler(method).unary_unary)

    def unary_stream(self, method: str, *_args: object, **_kwargs: object) -> DirectStreamMethod:
        """Return the callable of a server-streaming method."""
        return DirectStreamMethod(self._handler(method).unary_stream)

    def _handler(self, method: str) -> Any:
        try:
            return self._handlers[method]
        except KeyError:
            raise ValueError(f"no servicer for {method} in this process") from None

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: there is no connection."""


class DirectUnaryMethod:
    """Starts calls of one unary method."""

    def __init__(self, handler: Callable[[Message, DirectContext], Awaitable[Message]]) -> None:
        self._handler = handler

    def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Any = (),
    ) -> DirectUnaryCall:
        """Return a call that runs when it is awaited."""
        context = DirectContext(tuple(metadata or ()), timeout, _no_write)
        return DirectUnaryCall(self._handler(request, context), timeout)


class DirectUnaryCall:
    """One unary call; await it once, in the task that it shall run in."""

    def __init__(self, run: Awaitable[Message], timeout_s: float | None) -> None:
        self._run = run
        self._timeout_s = timeout_s

    def __await__(self) -> Generator[Any, None, Message]:
        """Run the servicer and return its message."""
        if self._timeout_s is None:
            return self._run.__await__()
        return _bounded(self._run, self._timeout_s).__await__()


class DirectStreamMethod:
    """Starts calls of one server-streaming method."""

    def __init__(self, handler: Callable[[Message, DirectContext], Awaitable[None]]) -> None:
        self._handler = handler

    def __call__(
        self,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Any = (),
    ) -> DirectStreamCall:
        """Return a call that runs when it is pushed or read."""
        return DirectStreamCall(self._handler, request, tuple(metadata or ()), timeout)


class DirectStreamCall:
    """One streamed call: `push_into` for our own clients, `read` or `async for` for any."""

    def __init__(
        self,
        handler: Callable[[Message, DirectContext], Awaitable[None]],
        request: Message,
        metadata: Metadata,
        timeout_s: float | None,
    ) -> None:
        self._handler = handler
        self._request = request
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._task: asyncio.Task[None] | None = None
        self._messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)

    async def push_into(self, receive: Write) -> None:
        """Run the servicer in this task and hand each message to `receive`."""
        context = DirectContext(self._metadata, self._timeout_s, receive)
        run = self._handler(self._request, context)
        await (run if self._timeout_s is None else _bounded(run, self._timeout_s))

    async def read(self) -> Message:
        """Return the next message, or `grpc.aio.EOF` after the last one.

        Raises:
            AioRpcError: The call failed.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._pump())
        message = await self._messages.get()
        if message is not EOF:
            return message
        self._messages.put_nowait(EOF)  # a further read ends the same way
        await self._task
        return EOF

    async def _pump(self) -> None:
        try:
            await self.push_into(self._messages.put)
        finally:
            if self._messages.full() and asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._messages.get_nowait()
            await self._messages.put(EOF)

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield each message."""
        while (message := await self.read()) is not EOF:
            yield message

    def cancel(self) -> bool:
        """Cancel a call that is being read; tell whether there was anything to cancel."""
        return self._task is not None and self._task.cancel()


async def _bounded(run: Awaitable[Any], timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await run
    except TimeoutError:
        raise _failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
