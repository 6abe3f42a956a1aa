"""Takes a streamed answer from a backend and hands it on, event by event, to the client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.domain.calls import AnswerWriter, Head
from first_core.domain.error_events import early_error, late_error
from first_core.domain.streams import StreamFailedError, StreamReader
from first_core.errors import BackendUnavailableError, StreamTruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.domain.transcript import Transcript
    from first_core.errors import FirstError
    from first_core.types import EndpointId


class AnswerSink:
    """The `ChunkSink` of one attempt.

    The head goes out with the first event, so that an error before it may still become a status
    or another attempt. `write` only gathers; `drain` sends, in the backend's own task, so that no
    queue stands between upstream and client and a slow client slows the upstream.

    Args:
        endpoint: Who answers.
        attempt_count: Attempts so far, this one included.
        reader: Judges the stream.
        writer: The way to the client.
        on_first_chunk: Called right before the head goes out.
        transcript: Remembers what the client got.
        continues: Whether the answer has begun at another endpoint, so that head and first words
            are out.
    """

    def __init__(
        self,
        endpoint: EndpointId,
        attempt_count: int,
        reader: StreamReader,
        writer: AnswerWriter,
        on_first_chunk: Callable[[], None],
        *,
        transcript: Transcript | None = None,
        continues: bool = False,
    ) -> None:
        self._endpoint = endpoint
        self._attempt_count = attempt_count
        self._reader = reader
        self._writer = writer
        self._on_first_chunk = on_first_chunk
        self._content_type = ""
        self._pending = b""
        self._failure: FirstError | None = None
        self._transcript = transcript
        self._continues = continues
        self.head_sent = False
        self.chunk_count = 0

    def start(self, content_type: str) -> None:
        """Keep the content type for the head."""
        self._content_type = content_type

    def write(self, data: bytes) -> bool:
        """Take bytes; `True` as soon as there is something to send."""
        if self._failure is None:
            self._take(self._reader.feed, data)
        return bool(self._pending) or self._failure is not None

    async def drain(self) -> None:
        """Send what is whole.

        Raises:
            FirstError: The upstream's event was an error, or no event at all.
        """
        if self._pending:
            await self._send()
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """Send the rest after the upstream has ended.

        Raises:
            FirstError: The answer is not complete.
        """
        if self._failure is None:
            self._take(lambda _: self._reader.finish(), b"")
        await self.drain()
        if not self._reader.complete:
            raise self._broken("ended its answer before it was complete")

    def _take(self, read: Callable[[bytes], bytes], data: bytes) -> None:
        try:
            out = read(data)
        except StreamFailedError as exc:
            self._failure = self._failed(exc)
        except ValueError as exc:
            self._failure = self._broken(f"sent what is no answer: {exc}")
        else:
            self._pending = self._pending + out if self._pending else out

    async def _send(self) -> None:
        data, self._pending = self._pending, b""
        if not self.head_sent:
            self._on_first_chunk()
            self.head_sent = True
            if not self._continues:
                head = Head(self._endpoint, self._attempt_count, self._content_type)
                await self._writer.head(head)
        if self._transcript is not None:
            if self._continues:
                data = self._transcript.edit(data)
            self._transcript.add(data)
        if data:
            self.chunk_count += 1
            await self._writer.data(data)

    @property
    def has_begun(self) -> bool:
        """Whether a byte of this answer has reached the client, or is about to."""
        return self._continues or self.head_sent or bool(self._pending)

    def _failed(self, failed: StreamFailedError) -> FirstError:
        if not self.has_begun:
            return early_error(failed.payload, self._endpoint)
        self._pending += failed.before
        return late_error(failed.payload, self._endpoint)

    def _broken(self, what: str) -> FirstError:
        cls = StreamTruncatedError if self.has_begun else BackendUnavailableError
        return cls(f"the endpoint {what}", metadata={"endpoint": str(self._endpoint)})
