"""Takes links on a gRPC server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from first_core.clock import Clock, SystemClock
from first_core.link.connection import Link
from first_core.link.options import LinkOptions
from first_core.link.pipes import AcceptedPipe
from first_core.link.servicers import Servicers
from first_core.link.status import LinkError
from first_proto.link.v1 import link_pb2_grpc

_log = logging.getLogger(__name__)

Admit: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Takes the `grpc.aio.ServicerContext` of a link; aborts it, or returns what `Link.admitted` is."""

_TOLD = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
    }
)
"""Codes that the peer of an ended link is told; all others it knows, or it is gone."""


class LinkServer(Servicers, link_pb2_grpc.LinkServiceServicer):
    """Runs its servicers for every peer that dials, and holds what calls the peers.

    It is filled like a server, by the generated `add_…Servicer_to_server`, and then itself added to
    a `grpc.aio.Server` by `add_LinkServiceServicer_to_server`.

    Args:
        options: Bounds of this side of each link.
        clock: The time.
        admit: Decides who may open a link. Default: whoever reaches the server.
        on_open: Called with each link once it is open; must not block.
        max_link_count: Most links at a time.
    """

    def __init__(
        self,
        *,
        options: LinkOptions | None = None,
        clock: Clock | None = None,
        admit: Admit | None = None,
        on_open: Callable[[Link], None] | None = None,
        max_link_count: int = 1024,
    ) -> None:
        super().__init__()
        self._options = options or LinkOptions()
        self._clock = clock or SystemClock()
        self._admit = admit
        self._on_open = on_open
        self._max_link_count = max_link_count
        self._links: set[Link] = set()
        self._is_stopping = False

    @property
    def links(self) -> frozenset[Link]:
        """The links that have not ended."""
        return frozenset(self._links)

    async def Connect(self, _requests: Any, context: Any) -> None:  # noqa: N802 - the RPC's name
        """Carry one link until it ends."""
        if self._is_stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is about to stop")
        if len(self._links) >= self._max_link_count:
            text = f"{self._max_link_count} links are open"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        admitted = None if self._admit is None else await self._admit(context)
        link = Link(
            AcceptedPipe(context),
            self,
            self._options,
            self._clock,
            peer=context.peer(),
            admitted=admitted,
        )
        self._links.add(link)
        try:
            end = await self._carry(link)
        finally:
            self._links.discard(link)
        if link.is_stuck:
            raise asyncio.CancelledError  # the only end that gRPC has for an RPC amid a write
        if end.code in _TOLD:
            await context.abort(end.code, end.text)

    async def _carry(self, link: Link) -> LinkError:
        run = asyncio.ensure_future(link.run())
        try:
            await link.wait_open()
            _log.info("link_open", extra={"peer": link.peer})
            if self._on_open is not None:
                self._on_open(link)
        except LinkError:
            pass  # `run` returns it
        except BaseException:
            run.cancel()
            await asyncio.wait([run])
            raise
        try:
            end = await run
        finally:
            _log.info("link_end", extra={"peer": link.peer})
        if end.code in _TOLD:
            _log.warning("link_broken", extra={"peer": link.peer, "reason": end.text})
        return end

    async def stop(self, grace_s: float | None = 0.0) -> None:
        """Take no more links and calls, let calls in flight end, end the links; safe to repeat.

        Args:
            grace_s: How long calls in flight may go on, in seconds; `None`: as long as they need.
        """
        self._is_stopping = True
        await asyncio.gather(*(link.leave(grace_s) for link in self._links))
