"""Channels over links: one that dials and dials again, and one back to a peer that has dialled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import grpc

from first_core.clock import Clock, SystemClock
from first_core.link.connection import Link
from first_core.link.options import LinkOptions
from first_core.link.pipes import DialledPipe
from first_core.link.servicers import Servicers
from first_core.link.status import EXPIRED, LinkError, Status
from first_core.link.surface import CallSurface
from first_core.link.waits import wait_until
from first_proto.link.v1 import link_pb2_grpc

if TYPE_CHECKING:
    from grpc import aio

_log = logging.getLogger(__name__)

Introduce: TypeAlias = Callable[[], Awaitable[Sequence[tuple[str, str | bytes]]]]
"""Returns the metadata that a link is opened with, a credential for instance."""

PROBE_AGAIN_S: Final = 60.0
"""Pause until a peer that takes no links is asked again: it may have been renewed."""

_FINAL: Final = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
"""Refusals that waiting does not cure: calls fail with them at once."""


class PeerChannel(CallSurface):
    """Calls back over a link that the peer has dialled.

    Args:
        link: Ends when it ends; there is no other.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self.clock = link.clock

    async def link(self, _deadline: float | None) -> Link:
        """Return the link."""
        if not self._link.is_open:
            text = "the link has ended; nothing was started"
            raise Status(grpc.StatusCode.UNAVAILABLE, text, not_started=True).error()
        return self._link

    async def close(self, grace: float | None = None) -> None:
        """Do nothing: the link belongs to the server."""


class LinkChannel(CallSurface):
    """Dials a peer with the first call, and again when the link is lost.

    Args:
        channel: To the peer's gRPC server. Closed with this one.
        options: Bounds of this side.
        clock: The time.
        servicers: What the peer may call. Default: nothing.
        introduce: Returns what the link is opened with.
        fall_back: Whether a peer that takes no links gets one RPC per call instead.
    """

    def __init__(
        self,
        channel: aio.Channel,
        *,
        options: LinkOptions | None = None,
        clock: Clock | None = None,
        servicers: Servicers | None = None,
        introduce: Introduce | None = None,
        fall_back: bool = False,
    ) -> None:
        self.clock = clock or SystemClock()
        self._channel = channel
        self._stub = link_pb2_grpc.LinkServiceStub(channel)  # type: ignore[no-untyped-call]
        self._options = options or LinkOptions()
        self._servicers = servicers or Servicers()
        self._introduce = introduce
        self._fall_back = fall_back
        self._is_plain = False
        self._is_closed = False
        self._current: Link | None = None
        self._live: set[Link] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self._failure: LinkError | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._dialler: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Dial now instead of with the first call; safe to repeat."""
        if self._dialler is None and not self._is_closed:
            self._dialler = asyncio.get_running_loop().create_task(self._dial_again())

    def plain(self) -> aio.Channel:
        """Return the channel to the peer's gRPC server."""
        return self._channel

    async def link(self, deadline: float | None) -> Link | None:
        """Return the open link, waiting for one that is being dialled; `None`: call plainly."""
        current = self._current
        if current is not None and current.is_open:
            return current
        self.start()
        give_up = self.clock.monotonic() + self._options.reconnect_wait_s
        until = give_up if deadline is None else min(deadline, give_up)
        while not self._is_plain:
            self._raise_refusal()
            if self.clock.monotonic() >= until:
                raise (EXPIRED if until == deadline else self._away()).error()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await wait_until([waiter], self.clock, until)
            current = self._current
            if current is not None and current.is_open:
                return current
        return None

    def _raise_closed(self) -> None:
        if self._is_closed:
            raise Status(grpc.StatusCode.CANCELLED, "Channel is closed.", not_started=True).error()

    def _raise_refusal(self) -> None:
        self._raise_closed()
        failure = self._failure
        if failure is not None and failure.code in _FINAL:
            raise Status(failure.code, failure.text, not_started=True).error()

    def _away(self) -> Status:
        why = "the link is being dialled" if self._failure is None else self._failure.text
        text = f"{why}; nothing was started"
        return Status(grpc.StatusCode.UNAVAILABLE, text, not_started=True)

    async def wait_open(self) -> Link:
        """Dial, and wait for an open link as long as it takes.

        Raises:
            AioRpcError: The channel is closed.
        """
        self.start()
        while self._current is None or not self._current.is_open:
            self._raise_closed()
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        return self._current

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _dial_again(self) -> None:
        pause_s = self._options.first_backoff_s
        while True:
            begun_s = self.clock.monotonic()
            ended = await self._dial()
            if ended is None:  # a link was open, and is left
                if self.clock.monotonic() - begun_s >= self._options.max_backoff_s:
                    pause_s = self._options.first_backoff_s
                    continue
            elif self._is_plain:
                await self.clock.sleep(PROBE_AGAIN_S)
                continue
            await self.clock.sleep(pause_s * random.uniform(0.8, 1.0))  # noqa: S311 - no secret
            pause_s = min(pause_s * 2, self._options.max_backoff_s)

    async def _dial(self) -> LinkError | None:
        """Open a link and stay until it is left; or return why none could be opened."""
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Link] = loop.create_future()
        task = loop.create_task(self._carry(opened))
        self._carriers.add(task)
        task.add_done_callback(self._carriers.discard)
        try:
            link = await opened
        except LinkError as exc:
            self._on_failure(exc)
            return exc
        self._current, self._failure, self._is_plain = link, None, False
        self._tell_waiters()
        await link.wait_left()
        self._current = None
        return None

    def _on_failure(self, exc: LinkError) -> None:
        before, self._failure = self._failure, exc
        self._is_plain = self._fall_back and exc.code is grpc.StatusCode.UNIMPLEMENTED
        if before is None or before.code is not exc.code:  # and not with each attempt
            level = logging.INFO if self._is_plain else logging.WARNING
            _log.log(level, "link_not_open", extra={"reason": exc.text, "code": exc.code.name})
        self._tell_waiters()

    async def _carry(self, opened: asyncio.Future[Link]) -> None:
        """Run one link to its end; a link that is left goes on beside its successor."""
        call: Any = None
        try:
            metadata = await self._introduce() if self._introduce is not None else ()
            call = self._stub.Connect(metadata=tuple(metadata))
            link = Link(DialledPipe(call), self._servicers, self._options, self.clock)
            await self._run(link, opened)
        except Exception as exc:
            _log.exception("link_dial_failed")
            if not opened.done():
                text = f"the link could not be dialled: {type(exc).__name__}"
                opened.set_exception(LinkError(grpc.StatusCode.UNAVAILABLE, text))
        finally:
            if call is not None:
                call.cancel()
            if not opened.done():
                opened.cancel()

    async def _run(self, link: Link, opened: asyncio.Future[Link]) -> None:
        run = asyncio.ensure_future(link.run())
        try:
            await link.wait_open()
            _log.info("link_open")
            self._live.add(link)
            if not opened.done():
                opened.set_result(link)
            end = await asyncio.shield(run)
            _log.info("link_end", extra={"reason": end.text})
        except LinkError as exc:
            if not opened.done():
                opened.set_exception(exc)
        finally:
            self._live.discard(link)
            run.cancel()
            await asyncio.wait([run])

    async def __aenter__(self) -> Self:
        """Return the channel; it is closed at the end."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close the channel."""
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Make no more calls, give those in flight `grace` seconds, end the link."""
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.gather(*(link.leave(grace or 0.0) for link in self._live))
        for task in [self._dialler, *self._carriers]:
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._tell_waiters()
        await self._channel.close(grace)
