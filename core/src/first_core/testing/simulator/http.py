"""HTTP/1.1 of the simulator: one connection, and the exchanges that follow each other on it.

Written on `httptools` and the transport alone: a server framework would cost more than all
that the simulator does, and would not let a fault reach the socket.
"""

# ruff: noqa: D102 - asyncio and httptools name the callbacks and say what they are for
from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, cast

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SERVER: Final = "first-simulator"
JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream; charset=utf-8"
LAST_CHUNK: Final = b"0\r\n\r\n"

MAX_PIPELINED: Final = 128
"""Requests that may wait on one connection before it is closed."""

_JSON_OK: Final = (
    f"HTTP/1.1 200 OK\r\nserver: {SERVER}\r\ncontent-type: {JSON}\r\ncontent-length: "
).encode()
_STREAM_OK: Final = (
    f"HTTP/1.1 200 OK\r\nserver: {SERVER}\r\ncontent-type: {EVENT_STREAM}\r\n"
    "transfer-encoding: chunked\r\n\r\n"
).encode()

Fields = tuple[tuple[str, str], ...]
"""Headers: names and values."""


class Request:
    """One request as it came."""

    __slots__ = ("body", "headers", "keep_alive", "method", "path", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        """Path with its query."""
        self.path = ""
        self.headers: dict[str, str] = {}
        """Names in lower case; a repeated one keeps its last value."""
        self.body = b""
        self.keep_alive = True
        self.version = "1.1"


class Work(Protocol):
    """What an exchange is busy with, once it has a slot."""

    def start(self) -> None:
        """Begin; called when a slot is free."""

    def stop(self) -> None:
        """Give up: the client has gone."""


class Server(Protocol):
    """What a connection needs to know of its server."""

    def connected(self, connection: Connection) -> bool:
        """Take a connection up; False where it was closed at once."""

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""

    def serve(self, connection: Connection, request: Request) -> None:
        """Begin to answer a request, as the connection's exchange."""

    def closed(self, exchange: Exchange, *, aborted: bool) -> None:
        """Learn that an exchange is over."""


class Exchange:
    """One request and its answer.

    The answer is one `plain`, or `begin`, any number of `events`, `end`.
    """

    __slots__ = ("_head", "chunked", "connection", "finished", "request", "slot", "work")

    def __init__(self, connection: Connection, request: Request) -> None:
        self.connection = connection
        self.request = request
        self.finished = False
        self.chunked = True
        self.work: Work | None = None
        self.slot = ""
        """Where it stands: "" before, `waiting`, `running`."""
        self._head = b""

    def plain(
        self, status: int, body: bytes, *, content_type: str = JSON, headers: Fields = ()
    ) -> None:
        """Send a whole answer and end the exchange."""
        if status == HTTPStatus.OK and content_type is JSON and self.request.keep_alive:
            self.connection.write(b"%b%d\r\n\r\n%b" % (_JSON_OK, len(body), body))
        else:
            fields = [("content-type", content_type)] if content_type else []
            fields += [("content-length", str(len(body))), *headers]
            self.connection.write(self.head(status, fields) + body)
        self.finish()

    def begin(self) -> None:
        """Begin an event stream; its head goes out with the first event, or by `flush`."""
        request = self.request
        if request.version == "1.0":
            self.chunked = request.keep_alive = False
        if request.keep_alive:
            self._head = _STREAM_OK
            return
        fields = [("content-type", EVENT_STREAM)]
        if self.chunked:
            fields.append(("transfer-encoding", "chunked"))
        self._head = self.head(HTTPStatus.OK, fields)

    def flush(self) -> None:
        """Send the head if it still waits."""
        if self._head:
            head, self._head = self._head, b""
            self.connection.write(head)

    def events(self, events: Sequence[bytes]) -> None:
        """Send whole events, each as a chunk of its own."""
        if self.chunked:
            data = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events])
        else:
            data = b"".join(events)
        if self._head:
            data, self._head = self._head + data, b""
        self.connection.write(data)

    def end(self) -> None:
        """End the stream and the exchange."""
        self.flush()
        if self.chunked:
            self.connection.write(LAST_CHUNK)
        self.finish()

    def head(self, status: int, fields: Iterable[tuple[str, str]]) -> bytes:
        """Return a status line and headers, with the blank line after them."""
        lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"server: {SERVER}"]
        lines += [f"{name}: {value}" for name, value in fields]
        if not self.request.keep_alive:
            lines.append("connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def finish(self) -> None:
        """Mark the answer as complete; the connection goes on to the next request."""
        if not self.finished:
            self.finished = True
            self.connection.exchange_over(self)

    def hang_up(self, *, reset: bool = False) -> None:
        """End the exchange from the server's side by closing the connection."""
        self.request.keep_alive = False
        if reset:
            self.connection.reset()
        self.finish()

    def abandon(self) -> None:
        """Learn that the client has gone."""
        if not self.finished:
            self.finished = True
            if self.work is not None:
                self.work.stop()
            self.connection.server.closed(self, aborted=True)


class Connection(asyncio.Protocol):
    """One accepted connection; answers pipelined requests in their order."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.exchange: Exchange | None = None
        self.write_paused = False
        self.on_drained: Callable[[], None] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._pipelined: deque[Request] = deque()
        self._request = Request()
        self._body: list[bytes] = []
        self._serving = False
        self._continue_due = False
        self._refused = False

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._refused = not self.server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the reason does not matter
        self._transport = None
        self._pipelined.clear()
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            exchange.abandon()
        self.server.disconnected(self)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Nothing is upgraded here; what follows the request is not HTTP any more.
            if self.exchange is not None:
                self.exchange.request.keep_alive = False
        except httptools.HttpParserError:
            self._refused = True
            if self.exchange is None:
                self.write(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                    b"connection: close\r\ncontent-length: 30\r\n\r\nInvalid HTTP request received."
                )
            self.close()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.on_drained is not None:
            go_on, self.on_drained = self.on_drained, None
            go_on()

    # The parser's side

    def on_message_begin(self) -> None:
        self._request = Request()
        self._body = []

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.path = request.target.partition("?")[0]
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        if request.headers.get("expect", "").lower() == "100-continue":
            if self.exchange is None and not self._pipelined:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            else:
                self._continue_due = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._continue_due = False
        self._pipelined.append(request)
        if len(self._pipelined) > MAX_PIPELINED:
            self.close()
        elif not self._serving:
            self._serve()

    # The exchange's side

    def write(self, data: bytes) -> None:
        """Write, unless the connection is closing."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def close(self) -> None:
        """Close after what was written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Drop what was not sent yet and close with a TCP reset."""
        transport = self._transport
        if transport is not None:
            sock = transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def exchange_over(self, exchange: Exchange) -> None:
        """Go on to the next request, or close."""
        if self.exchange is exchange:
            self.exchange = None
        self.server.closed(exchange, aborted=False)
        if not exchange.request.keep_alive:
            self._pipelined.clear()
            self.close()
        elif not self._serving:
            self._serve()

    def _serve(self) -> None:
        # A loop, and not a call from each answer into the next request: a long pipeline of
        # calls answered at once would overflow the stack.
        self._serving = True
        try:
            while self._pipelined and self.exchange is None:
                self.server.serve(self, self._pipelined.popleft())
        finally:
            self._serving = False
        if self._continue_due and self.exchange is None:
            self._continue_due = False
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Site is overloaded"
