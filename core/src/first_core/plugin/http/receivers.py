"""What takes an answer off a carrier: as a whole, or into the sink of a stream."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from first_core.plugin.http.errors import MAX_ERROR_BODY_BYTES, no_answer, too_large

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.plugin.backend import ChunkSink
    from first_core.plugin.http.transport import Head
    from first_core.plugin.watchdog import Watch

_EVENT_STREAM: Final = "text/event-stream"


class ErrorBodyCutError(Exception):
    """An error body exceeds `MAX_ERROR_BODY_BYTES`; its status tells enough."""


class WholeAnswer:
    """Collects an answer.

    Args:
        max_bytes: Largest body of a success.
        idle_s: Longest silence once the body has begun; `None`: without end.
        watch: Bounds the task that waits for the answer.
        clock: The time.
    """

    def __init__(self, *, max_bytes: int, idle_s: float | None, watch: Watch, clock: Clock) -> None:
        self.head: Head | None = None
        """Once it has come."""
        self.is_success = False
        """Whether the status is one of 200 to 299."""
        self._pieces: list[bytes] = []
        self._size = 0
        self._max_bytes = max_bytes
        self._idle_s = inf if idle_s is None else idle_s
        self._watch = watch
        self._clock = clock

    @property
    def body(self) -> bytes:
        """The body as far as it has come."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def on_head(self, head: Head) -> None:
        """Take status and headers."""
        self.head = head
        self.is_success = 200 <= head.status <= 299  # noqa: PLR2004 - RFC 9110, section 15.3
        if not self.is_success:
            return
        if head.get(b"content-encoding").lower() not in {"", "identity"}:
            raise no_answer()  # we asked for identity, and bytes pass unread
        length = head.get(b"content-length")
        if length.isdecimal() and int(length) > self._max_bytes and self._bounds_size(head):
            raise too_large(self._max_bytes)

    def on_data(self, data: bytes) -> bool:
        """Take the next bytes of the body; never behind."""
        self._heard()
        self._size += len(data)
        if not self.is_success and self._size > MAX_ERROR_BODY_BYTES:
            self._pieces = []
            raise ErrorBodyCutError
        if self._size > self._max_bytes:
            raise too_large(self._max_bytes)
        self._pieces.append(data)
        return False

    async def drain(self) -> None:
        """Return: a collection is never behind."""

    def _bounds_size(self, head: Head) -> bool:  # noqa: ARG002 - for those that look at it
        return True

    def _heard(self) -> None:
        self._watch.bound = "idle"
        self._watch.timeout_s = self._idle_s
        self._watch.deadline_s = self._clock.monotonic() + self._idle_s


class StreamedAnswer(WholeAnswer):
    """Passes a stream of events on to a sink as it comes, and collects anything else.

    Args:
        sink: Takes the stream.
        max_bytes: Largest body that is no stream.
        idle_s: Longest silence once the body has begun; `None`: without end.
        watch: Bounds the task that waits for the answer.
        clock: The time.
    """

    def __init__(
        self,
        sink: ChunkSink,
        *,
        max_bytes: int,
        idle_s: float | None,
        watch: Watch,
        clock: Clock,
    ) -> None:
        super().__init__(max_bytes=max_bytes, idle_s=idle_s, watch=watch, clock=clock)
        self.is_stream = False
        """Whether it passes the answer on."""
        self.written = False
        """Whether a byte was passed on."""
        self._sink = sink
        self._content_type = ""

    def on_head(self, head: Head) -> None:
        """Take status and headers."""
        super().on_head(head)
        self._content_type = head.get(b"content-type")
        self.is_stream = self.is_success and _is_event_stream(self._content_type)

    def on_data(self, data: bytes) -> bool:
        """Pass the next bytes on, and tell whether the sink is behind."""
        if not self.is_stream:
            return super().on_data(data)
        self._heard()
        if not self.written:
            # Announced as late as this, so that an attempt that fails leaves the sink untouched.
            self.written = True
            self._sink.start(self._content_type)
        return self._sink.write(data)

    async def drain(self) -> None:
        """Wait for the reader; that time is not the upstream's silence."""
        self._watch.pause()
        await self._sink.drain()
        self._heard()

    def _bounds_size(self, head: Head) -> bool:
        return not _is_event_stream(head.get(b"content-type"))


def _is_event_stream(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == _EVENT_STREAM
