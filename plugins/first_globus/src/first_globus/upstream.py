"""One cluster's way: a call becomes a task, its result an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from first_core.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    FirstError,
    InvalidRequestError,
    LimitExceededError,
    UnsupportedError,
)
from first_core.plugin.http.errors import retry_after_s
from first_globus.payload import answer_of, answer_of_text, task_arguments
from first_globus.service import ServiceError
from first_globus.tasks import Task

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.plugin import Answer, Call, ChunkSink
    from first_core.plugin.watchdog import Watch, Watchdog
    from first_globus.ingest import Ingest
    from first_globus.settings import ClusterSettings, StreamingSettings
    from first_globus.streams import Stream, Streams
    from first_globus.tasks import Lane, Results


class TaskUpstream:
    """Runs calls of one cluster as tasks.

    Args:
        settings: Of the cluster.
        lane: Submits its tasks.
        results: Brings their results.
        streams: Where the chunks of streams arrive.
        ingest: Listens for them; `None`: streams are off.
        streaming: Settings of both.
        watchdog: Bounds calls in time: a killed agent loses tasks without a word.
        clock: The time.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        lane: Lane,
        results: Results,
        streams: Streams,
        ingest: Ingest | None,
        streaming: StreamingSettings,
        watchdog: Watchdog,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._lane = lane
        self._results = results
        self._streams = streams
        self._ingest = ingest
        self._streaming = streaming
        self._watchdog = watchdog
        self._clock = clock

    async def call(self, call: Call) -> Answer:
        """Run one call; raises as `Backend.call`."""
        try:
            if self._settings.pushes_answers and self._ingest is not None:
                return await self._pushed(call, self._ingest.port)
            return await self._returned(call)
        except ServiceError as exc:
            raise from_service(exc, now_s=self._clock.time()) from exc

    async def _returned(self, call: Call) -> Answer:
        task = self._task(task_arguments(call, api_port=self._settings.api_port))
        try:
            with self._watch(call) as watch:
                watch.expect("first_chunk", call.timeouts.first_chunk_s)
                self._lane.add(task)
                result = await task.result
        except BackendTimeoutError as exc:
            exc.work_started = task.is_sent
            raise
        finally:
            self._drop(task)
        return answer_of(result, now_s=self._clock.time())

    async def _pushed(self, call: Call, port: int) -> Answer:
        stream, whole = self._streams.open(), _WholeAnswer()
        task = self._stream_task(call, stream, port)
        try:
            await self._relay(call, stream, whole, task)
        except BackendError:
            # The function returns the answer where it cannot reach the listener.
            if whole.pieces or not task.result.done() or task.result.cancelled():
                raise
            return answer_of(task.result.result(), now_s=self._clock.time())
        finally:
            self._streams.close(stream)
            self._drop(task)
        return answer_of_text(b"".join(whole.pieces), now_s=self._clock.time())

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink`; raises as `Backend.stream`."""
        if self._ingest is None:
            raise UnsupportedError("this cluster does not stream; ask for a plain answer")
        stream = self._streams.open()
        try:
            task = self._stream_task(call, stream, self._ingest.port)
            try:
                await self._relay(call, stream, sink, task)
            finally:
                self._drop(task)
        except ServiceError as exc:
            raise from_service(exc, now_s=self._clock.time()) from exc
        finally:
            self._streams.close(stream)

    async def _relay(self, call: Call, stream: Stream, sink: ChunkSink, task: Task) -> None:
        with self._watch(call) as watch:
            self._lane.add(task)
            await stream.relay(
                sink,
                task,
                watch=watch,
                timeouts=call.timeouts,
                confirm_s=self._streaming.confirm_timeout_s,
            )

    def _stream_task(self, call: Call, stream: Stream, port: int) -> Task:
        extra = self._destination(port) | {
            "stream_task_id": stream.id,
            "stream_task_token": stream.credential,
        }
        return self._task(task_arguments(call, api_port=self._settings.api_port, extra=extra))

    def _destination(self, port: int) -> dict[str, str | int]:
        url = urlsplit(self._streaming.public_url or f"http://127.0.0.1:{port}")
        return {
            "streaming_server_host": url.hostname or "",
            "streaming_server_port": url.port or (443 if url.scheme == "https" else 80),
            "streaming_server_protocol": url.scheme,
        }

    def _task(self, arguments: str) -> Task:
        settings = self._settings
        return Task(str(settings.endpoint_uuid), str(settings.function_uuid), arguments)

    def _drop(self, task: Task) -> None:
        # The service cannot cancel a task: what it still returns is dropped.
        self._results.forget(task)
        task.result.cancel()

    def _watch(self, call: Call) -> Watch:
        current = asyncio.current_task()
        if current is None:
            raise RuntimeError("needs an asyncio.Task, which deadlines cancel")
        return self._watchdog.watch(current, total_s=call.timeouts.total_s)


class _WholeAnswer:
    """Collects an answer that comes the way of streams."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def start(self, content_type: str) -> None:
        """Take note of nothing: it is JSON."""

    def write(self, data: bytes) -> bool:
        """Keep the next bytes; never behind."""
        self.pieces.append(data)
        return False

    async def drain(self) -> None:
        """Return: a collection is never behind."""


def from_service(error: ServiceError, *, now_s: float) -> FirstError:
    """Return the error for a task that the service did not take."""
    metadata = {"http_status": str(error.status)} if error.status else {}
    if error.status == 413:  # noqa: PLR2004 - the only one that the caller can change
        return InvalidRequestError(
            "the request is larger than a task may carry; send a smaller one, or have the cluster "
            "served through a relay",
            metadata=metadata,
        )
    if error.status == 429:  # noqa: PLR2004 - too many requests
        return LimitExceededError(
            "Globus Compute's own limit is used up",
            metadata=metadata,
            retry_after_s=retry_after_s(error.retry_after, now_s),
        )
    return BackendUnavailableError(
        _MESSAGES.get(error.status, "Globus Compute did not take the call"),
        work_started=error.work_started,
        metadata=metadata,
    )


_MESSAGES = {
    401: "Globus Compute refused the gateway's credential",
    403: "Globus Compute refused the gateway, or the cluster's endpoint its function",
    404: "Globus Compute does not know the cluster's endpoint or function",
    409: "the cluster's endpoint is offline",
}
