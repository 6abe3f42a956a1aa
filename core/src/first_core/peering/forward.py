"""Sends one call to a peer, and its answer into a sink as it comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from first_core.errors import BackendUnavailableError, StreamTruncatedError
from first_core.peering.failures import call_failure, stream_failure
from first_core.plugin import Answer
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_core.plugin import Call, ChunkSink
    from first_core.plugin.watchdog import Watch, Watchdog
    from first_core.types import EndpointId
    from first_proto.peer.v1 import peer_pb2

T = TypeVar("T")

MARGIN_S: Final = 1.0
"""The peer keeps the same bounds at the endpoint; ours end later, so that its error, which knows
more, comes first."""

IN_METADATA: Final = ("traceparent", "tracestate", "x-request-id")
"""Headers that travel beside the message."""

_HEAD: Final = inference_pb2.STREAM_EVENT_KIND_HEAD
_DATA: Final = inference_pb2.STREAM_EVENT_KIND_DATA
_PROGRESS: Final = inference_pb2.STREAM_EVENT_KIND_PROGRESS
_TRAILER: Final = inference_pb2.STREAM_EVENT_KIND_TRAILER


def request_for(call: Call, at_peer: EndpointId) -> inference_pb2.CallRequest:
    """Return the call as the peer gets it, pinned to the endpoint by the peer's name for it."""
    request = inference_pb2.CallRequest(
        operation=call.operation,  # type: ignore[arg-type]  # numbers equal those of the proto
        body=call.body,
        content_type=call.content_type,
        pin=inference_pb2.Pin(
            cluster=at_peer.cluster, framework=at_peer.framework, replica=at_peer.replica
        ),
        headers={k: v for k, v in call.headers.items() if k not in IN_METADATA},
        continuation_disabled=True,  # this gateway goes on elsewhere; it has the text
    )
    if call.timeouts.first_chunk_s is not None:
        bound = Duration()
        bound.FromMilliseconds(max(1, round(call.timeouts.first_chunk_s * 1000)))
        request.first_chunk_timeout.CopyFrom(bound)
    return request


def metadata_for(call: Call) -> list[tuple[str, str]]:
    """Return what travels beside the message: trace and request id, never a credential."""
    return [(key, call.headers[key]) for key in IN_METADATA if key in call.headers]


class Forward:
    """One call on its way.

    Args:
        peer: Name of the peer.
        call: The call.
        watchdog: Keeps its bounds.
        is_open: Tells whether the connection still stands on our side.
    """

    def __init__(
        self, peer: str, call: Call, watchdog: Watchdog, is_open: Callable[[], bool]
    ) -> None:
        self._peer = peer
        self._timeouts = call.timeouts
        self._watchdog = watchdog
        self._is_open = is_open
        self._has_begun = False

    async def answer(self, send: Callable[..., Any], request: peer_pb2.CallRequest,
                     metadata: list[tuple[str, str]]) -> Answer:  # fmt: skip
        """Run a plain call.

        Raises:
            FirstError: As `Backend.call`.
        """

        async def run(watch: Watch) -> Answer:
            watch.expect("first_chunk", _later(self._timeouts.first_chunk_s))
            response = await send(request, metadata=metadata, timeout=self._timeouts.total_s)
            return Answer(response.body, response.content_type)

        return await self._guarded(run)

    async def stream(self, send: Callable[..., Any], request: peer_pb2.StreamCallRequest,
                     metadata: list[tuple[str, str]], sink: ChunkSink) -> None:  # fmt: skip
        """Run a streamed call; its bytes go into `sink` as they come.

        Raises:
            FirstError: As `Backend.stream`.
        """

        async def run(watch: Watch) -> None:
            watch.expect("first_chunk", _later(self._timeouts.first_chunk_s))
            stream = send(request, metadata=metadata, timeout=self._timeouts.total_s)
            try:
                await self._pour(stream, sink, watch)
            finally:
                stream.cancel()  # no effect on a call that has ended

        await self._guarded(run)

    async def _pour(self, stream: Any, sink: ChunkSink, watch: Watch) -> None:
        while (message := await stream.read()) is not EOF:
            if message.kind == _DATA:
                self._has_begun = True
                if sink.write(message.data):
                    watch.pause()
                    await sink.drain()
                watch.expect("idle", _later(self._timeouts.idle_s))
            elif message.kind == _HEAD:
                sink.start(message.head.content_type)
            elif message.kind == _PROGRESS:  # waits in the peer's queue, which has its own bound
                watch.expect("first_chunk", _later(self._timeouts.first_chunk_s))
            elif message.kind == _TRAILER:
                return
        raise self._lost()

    async def _guarded(self, run: Callable[[Watch], Awaitable[T]]) -> T:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a call runs inside a task")
        cancelling = task.cancelling()
        with self._watchdog.watch(task, total_s=_later(self._timeouts.total_s)) as watch:
            try:
                return await run(watch)
            except aio.AioRpcError as exc:
                failure = stream_failure if self._has_begun else call_failure
                raise failure(self._peer, exc) from exc
            except aio.UsageError as exc:
                raise self._lost() from exc
            except asyncio.CancelledError as exc:
                # A channel that is closed cancels its calls, which nobody asked this task for.
                if task.cancelling() > cancelling or self._is_open():
                    raise
                raise self._lost() from exc

    def _lost(self) -> BackendUnavailableError | StreamTruncatedError:
        cls = StreamTruncatedError if self._has_begun else BackendUnavailableError
        return cls(
            f"the connection to the peer {self._peer!r} has ended", metadata={"peer": self._peer}
        )


def _later(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else timeout_s + MARGIN_S
