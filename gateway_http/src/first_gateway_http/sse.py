"""A streamed answer: server-sent events, written as they come."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from first_core.errors import StreamTruncatedError
from first_core.types import EndpointState
from first_gateway_http.answers import add_head, base_headers
from first_gateway_http.errors import failure_of
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from first_core.clock import Clock
    from first_core.errors import FirstError
    from first_gateway_http.dialects import Dialect

_DATA: Final = inference_pb2.STREAM_EVENT_KIND_DATA
_HEAD: Final = inference_pb2.STREAM_EVENT_KIND_HEAD
_PROGRESS: Final = inference_pb2.STREAM_EVENT_KIND_PROGRESS
_TRAILER: Final = inference_pb2.STREAM_EVENT_KIND_TRAILER

_WAITING: Final = b": waiting\n\n"


class _EventResponse(web.StreamResponse):
    # As `web.Response` has it: the head leaves with the first bytes, in one packet.
    _send_headers_immediately = False


class EventStream:
    """Writes one streamed answer to its client.

    The head is sent with the first event, so that an error before it is an HTTP status.

    Args:
        request: Who gets the answer.
        dialect: How its client wants to hear of errors.
        request_id: Id of the request.
    """

    def __init__(self, request: web.Request, dialect: Dialect, request_id: str) -> None:
        self._request = request
        self._dialect = dialect
        self._request_id = request_id
        self._head: inference_pb2.CallHead | None = None
        self._response: _EventResponse | None = None
        self._writer: AbstractStreamWriter | None = None
        self._last = b""
        self._is_complete = False
        self._beats: asyncio.Task[None] | None = None
        self._tells_progress = False

    @property
    def has_begun(self) -> bool:
        """Whether the status has been sent, so that an error can only be an event."""
        return self._response is not None

    @property
    def client_has_left(self) -> bool:
        """Whether nothing can be sent any more."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def start_heartbeat(self, clock: Clock, interval_s: float) -> None:
        """Begin to write comments while nothing else comes; `close` must follow."""
        self.tell_progress()
        self._beats = asyncio.create_task(self._beat(clock, interval_s))

    def tell_progress(self) -> None:
        """Write a comment whenever the router tells why the call still waits."""
        self._tells_progress = True

    async def receive(self, message: inference_pb2.StreamCallResponse) -> None:
        """Take the router's next message; returns when the client is not too far behind."""
        kind = message.kind
        if kind == _DATA:
            self._last = data = message.data
            if self._beats is not None:
                self.close()
            writer = self._writer or await self._begin()
            await writer.write(data)
        elif kind == _HEAD:
            self._head = message.head
        elif kind == _TRAILER:
            self._is_complete = True
        elif kind == _PROGRESS and self._tells_progress:
            await self._comment(_progress(message.progress))

    async def finish(self) -> web.StreamResponse:
        """Return the answer after the last message; who gets it ends it.

        Raises:
            StreamTruncatedError: The trailer is missing.
        """
        self.close()
        if not self._is_complete:
            raise StreamTruncatedError("the answer ended before it was complete")
        if self._writer is None:
            await self._begin()
        return self.answer()

    async def fail(self, error: FirstError) -> web.StreamResponse:
        """End an answer that has begun with an error event, and without the end marker."""
        self.close()
        failure = failure_of(error, self._request_id)
        event = self._dialect.error_event(failure, self._request_id, last=self._last)
        writer = self._writer or await self._begin()
        with contextlib.suppress(ConnectionError):  # the client has left in the meantime
            await writer.write_eof(event)
        return self.answer()

    def close(self) -> None:
        """Stop the heartbeat; safe to repeat."""
        if self._beats is not None:
            self._beats.cancel()
            self._beats = None

    def answer(self) -> web.StreamResponse:
        """Return the answer that has begun."""
        if self._response is None:
            raise RuntimeError("the answer has not begun")
        return self._response

    async def _begin(self) -> AbstractStreamWriter:
        headers = base_headers("text/event-stream", self._request_id)
        headers[hdrs.CACHE_CONTROL] = "no-cache"
        headers["x-accel-buffering"] = "no"
        headers[self._dialect.request_id_header] = self._request_id
        if self._head is not None:
            add_head(headers, self._head)
        self._response = response = _EventResponse(headers=headers)
        writer = await response.prepare(self._request)
        if writer is None:
            raise RuntimeError("the answer has ended")
        self._writer = writer
        return writer

    async def _comment(self, comment: bytes) -> None:
        writer = self._writer or await self._begin()
        await writer.write(comment)

    async def _beat(self, clock: Clock, interval_s: float) -> None:
        while True:
            await clock.sleep(interval_s)
            try:
                await self._comment(_WAITING)
            except ConnectionError:
                return  # the client is gone; its request is cancelled


def _progress(progress: inference_pb2.CallProgress) -> bytes:
    words = [f"state={_state_name(progress.state)}"]
    if progress.queue_position:
        words.append(f"position={progress.queue_position}")
    if progress.HasField("expected_wait"):
        words.append(f"eta_s={progress.expected_wait.ToSeconds()}")
    return f": {' '.join(words)}\n\n".encode()


def _state_name(state: int) -> str:
    try:
        return EndpointState(state).name.lower()
    except ValueError:
        return "unknown"
