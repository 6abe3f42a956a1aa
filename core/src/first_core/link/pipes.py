"""Both ends of the gRPC stream under a link."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from first_core.link.status import LinkError, broken
from first_proto.link.v1 import link_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

_GONE = (aio.BaseError, grpc.RpcError, asyncio.InvalidStateError)
"""What operations on a stream that has ended raise."""


class Pipe(ABC):
    """A stream of batches of frames."""

    dialled: bool
    """Whether this side dialled: its call ids are odd."""
    new_batch: type[Any]
    """Message that carries frames of this side."""

    @abstractmethod
    async def send(self, batch: Any) -> None:
        """Send a batch; returns when the transport has taken it.

        Raises:
            LinkError: The stream is gone.
        """

    @abstractmethod
    async def receive(self) -> Sequence[link_pb2.Frame] | None:
        """Return the next batch; `None`: the other side has ended the stream.

        Raises:
            LinkError: The stream is gone, or what came is no batch.
        """

    @abstractmethod
    async def finish(self) -> None:
        """Tell that no more is sent."""


class DialledPipe(Pipe):
    """The end of the side that dialled.

    Args:
        call: `LinkService.Connect`, just begun.
    """

    dialled = True
    new_batch = link_pb2.ConnectRequest

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, batch: Any) -> None:
        """Send a batch."""
        try:
            await self._call.write(batch)
        except _GONE as exc:
            raise await self._why(exc) from exc

    async def receive(self) -> Sequence[link_pb2.Frame] | None:
        """Return the next batch."""
        try:
            batch = await self._call.read()
        except _GONE as exc:
            raise await self._why(exc) from exc
        if batch is EOF:
            return None
        if batch is None:  # grpc.aio's word for a message that does not parse
            raise broken("the peer sent something else than frames")
        frames: Sequence[link_pb2.Frame] = batch.frames
        return frames

    async def _why(self, exc: Exception) -> LinkError:
        if isinstance(exc, aio.AioRpcError):
            return LinkError(exc.code(), exc.details() or exc.code().name)
        if self._call.done():
            return LinkError(await self._call.code(), await self._call.details() or "")
        return LinkError(grpc.StatusCode.UNAVAILABLE, "the stream is gone")

    async def finish(self) -> None:
        """Tell that no more is sent."""
        try:
            await self._call.done_writing()
        except _GONE as exc:
            raise await self._why(exc) from exc


class AcceptedPipe(Pipe):
    """The end of the side that was dialled.

    Args:
        context: Of `LinkService.Connect`.
    """

    dialled = False
    new_batch = link_pb2.ConnectResponse

    def __init__(self, context: Any) -> None:
        self._context = context

    async def send(self, batch: Any) -> None:
        """Send a batch."""
        try:
            await self._context.write(batch)
        except aio.BaseError as exc:
            raise LinkError(grpc.StatusCode.UNAVAILABLE, "the peer is gone") from exc

    async def receive(self) -> Sequence[link_pb2.Frame] | None:
        """Return the next batch."""
        try:
            batch = await self._context.read()
        except aio.BaseError as exc:
            raise LinkError(grpc.StatusCode.UNAVAILABLE, "the peer is gone") from exc
        except Exception as exc:  # whatever the parser raises
            raise broken("the peer sent something else than frames") from exc
        if batch is EOF:
            return None
        frames: Sequence[link_pb2.Frame] = batch.frames
        return frames

    async def finish(self) -> None:
        """Nothing to do: the end of the RPC tells it."""
