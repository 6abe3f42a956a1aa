"""One connection to an upstream, and one exchange at a time on it.

Bytes go from the socket's callback through the parser straight to the receiver: no queue and no
task lies between, and the awaiting coroutine wakes only when the exchange has ended or its reader
is behind.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

import httptools

from first_core.plugin.http.transport import (
    MAX_HEAD_BYTES,
    DisconnectedError,
    Head,
    MalformedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.plugin.http.transport import Receiver

_JOIN_LIMIT_BYTES: Final = 64 * 1024
"""Up to here head and body go out in one write; copying more costs more than a second one."""

_BODILESS: Final = frozenset({204, 304})


class Connection(asyncio.Protocol):
    """One connection. It belongs to one exchange, or waits in a pool.

    Args:
        loop: The running event loop.
        on_lost: Called with the connection when it has ended.
    """

    __slots__ = (
        "_behind",
        "_complete",
        "_error",
        "_head",
        "_head_due",
        "_headers",
        "_keep_alive",
        "_loop",
        "_on_lost",
        "_parser",
        "_paused",
        "_pieces",
        "_receiver",
        "_transport",
        "_unread_bytes",
        "_waiter",
        "answered",
        "idle_until_s",
        "opened_s",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]
    ) -> None:
        self.answered = False
        """Whether a byte has come since the exchange began."""
        self.opened_s = 0.0
        """Monotonic time at which it was opened; for its pool."""
        self.idle_until_s = 0.0
        """Monotonic time until which it may wait for the next exchange; for its pool."""
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._paused = False
        self._begin(None)

    def _begin(self, receiver: Receiver | None) -> None:
        self._receiver = receiver
        self._head: Head | None = None
        self._head_due = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._unread_bytes = 0
        self._behind = False
        self._complete = False
        self._keep_alive = False
        self._error: Exception | None = None
        self.answered = False

    # The pool's side

    @property
    def is_open(self) -> bool:
        """Whether it may still carry something."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange that ended on it left it fit for another one."""
        transport = self._transport
        return (
            self._complete
            and self._keep_alive
            and transport is not None
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0  # an answer that came before all was sent
        )

    def keep_alive_s(self) -> float | None:
        """Return how long the upstream said it keeps the connection; `None`: it did not say."""
        hint = self._head.get(b"keep-alive") if self._head is not None else ""
        seconds = hint.partition("timeout=")[2].partition(",")[0].strip()
        return float(seconds) if seconds.isascii() and seconds.isdecimal() else None

    def close(self) -> None:
        """Close it; what the upstream has not taken by now, it never wanted."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    def fail(self, error: Exception) -> None:
        """End the exchange on it with `error`, and close it at once."""
        if self._error is None and not self._complete:
            self._error = error
        self._abort()
        self._wake()

    async def exchange(self, head: bytes, body: bytes, receiver: Receiver) -> None:
        """Send a request and hand the answer to `receiver`; returns when it has ended.

        Cancelling closes the connection.

        Raises:
            DisconnectedError: The connection ended before the answer did.
            MalformedError: What came is not HTTP that we take.
            Exception: What `receiver` raised.
        """
        self._begin(receiver)
        try:
            self._send(head, body)
            await self._wait_complete(receiver)
        except BaseException:
            self._abort()
            raise
        finally:
            self._receiver = self._error = None

    def _send(self, head: bytes, body: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            raise DisconnectedError("closed while idle", head_seen=False)
        if len(body) <= _JOIN_LIMIT_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def _wait_complete(self, receiver: Receiver) -> None:
        while True:
            if self._behind:
                self._behind = False
                await receiver.drain()
                if not self._behind:
                    self._resume()
            elif self._error is not None:
                raise self._error
            elif self._complete:
                return
            else:
                self._waiter = self._loop.create_future()
                await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _pause(self) -> None:
        if not self._paused and self.is_open:
            self._paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            if self.is_open:
                cast("asyncio.Transport", self._transport).resume_reading()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange under way, if there is one."""
        self._transport = None
        if self._receiver is not None and not self._complete and self._error is None:
            if exc is None and self._ends_at_close():
                self._complete = True
            else:
                text = "closed" if exc is None else type(exc).__name__
                self._error = DisconnectedError(text, head_seen=self._head is not None)
        self._wake()
        self._on_lost(self)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and hand it on."""
        receiver = self._receiver
        if receiver is None or self._complete or self._error is not None:
            self._abort()  # bytes that nobody asked for: never to be taken for the next answer
            return
        self.answered = True
        self._unread_bytes += len(data)
        error: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            error = MalformedError(type(exc).__name__)
        try:
            self._hand_on(receiver)
        except Exception as exc:  # goes to the task that awaits the exchange
            self._complete = False
            self.fail(exc)
            return
        if self._complete:
            self._keep_alive = self._keep_alive and error is None
            self._wake()
        elif error is not None:
            self.fail(error)
        elif self._unread_bytes > MAX_HEAD_BYTES:
            self.fail(MalformedError("head, trailer or chunk extension too large"))
        elif self._behind:
            self._pause()
            self._wake()

    def _hand_on(self, receiver: Receiver) -> None:
        if self._head_due and self._head is not None:
            self._head_due = False
            self._unread_bytes = 0
            receiver.on_head(self._head)
        pieces = self._pieces
        if pieces:
            # All events that one read brought go on together.
            self._pieces = []
            self._unread_bytes = 0
            self._behind = receiver.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _ends_at_close(self) -> bool:
        """Return whether the answer under way has no other end than that of the connection."""
        head = self._head
        return (
            head is not None
            and not head.get(b"content-length")
            and not head.get(b"transfer-encoding")
            and head.status not in _BODILESS
        )

    # The parser's side

    def on_message_begin(self) -> None:
        """Begin a head; a second answer to one request spoils the connection."""
        if self._complete:
            self._keep_alive = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers are dropped."""
        if self._head is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Take the head; interim ones (100 to 199) are dropped."""
        status = self._parser.get_status_code()
        if self._head is None and status >= 200:  # noqa: PLR2004 - RFC 9110, section 15.2
            self._head = Head(status, self._headers)
            self._head_due = True
        self._headers = []

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if not self._complete:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Mark the answer as complete, unless the head was an interim one."""
        if self._head is not None and not self._complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()
