"""One process: a router, or a channel to one elsewhere, with the listeners before it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

from first_core.app.ending import Ending
from first_core.app.reload import FileWatch, Reloader
from first_core.app.router import Router
from first_core.client import connect_link
from first_core.clock import Clock, SystemClock
from first_core.peering.server import PeerServer, peer_server
from first_core.plugin import FrontContext, PluginSettings
from first_core.rpc.server import GrpcServer
from first_core.settings import ListenAddress
from first_core.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from typing import Any

    from first_core.app.ending import Listener
    from first_core.app.reload import Reloadable
    from first_core.app.shared_counts import SharedCounts
    from first_core.app.workers import Worker
    from first_core.plugin import Front
    from first_core.plugin.host import PluginHost
    from first_core.settings import Settings

_log = logging.getLogger(__name__)


class Process:
    """Starts, serves, drains and stops.

    Args:
        settings: The whole tree.
        host: The plugins.
        router_target: Where the router is; `None`: in this process.
        with_fronts: Whether clients' fronts listen here.
        clock: The time.
        read: Reads the settings again, for a reload; `None`: there is none.
        worker: Which one it is, where several share a port; `None`: it is alone.
    """

    def __init__(
        self,
        settings: Settings,
        host: PluginHost,
        *,
        router_target: str | None = None,
        with_fronts: bool = True,
        clock: Clock | None = None,
        read: Callable[[], Settings] | None = None,
        worker: Worker | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        core = settings.core
        self._worker = worker
        self._counts: SharedCounts | None = None
        self.telemetry = Telemetry(
            core.telemetry,
            core.log,
            self._clock,
            workers_folder=None if worker is None else worker.metrics_folder,
        )
        self.router: Router | None = None
        self._grpc: GrpcServer | None = None
        if router_target is None:
            self._counts = None if worker is None else worker.counts()
            self.router = Router(settings, host, self.telemetry, self._clock, self._counts)
            if core.grpc.listen is not None:
                self._grpc = GrpcServer(
                    core.grpc,
                    self.router.inference,
                    self.router.catalog_servicer,
                    clock=self._clock,
                    drain_s=core.drain_s,
                    reuse_port=worker is not None,
                )
        self._peers = self._peer_server()
        self._router_target = router_target
        self._channel: Any = None
        self._fronts: list[Front] = []
        self._front_offers = (
            host.fronts(PluginSettings(settings.sections)).offers() if with_fronts else {}
        )
        self._undo: list[Callable[[], Awaitable[None]]] = []
        self.reloader = Reloader(
            settings, read or (lambda: settings), self.router, self._reloadable
        )
        self._ending: Ending | None = None
        self._watch: FileWatch | None = None
        if core.reload.watch and settings.source is not None:
            interval_s = core.reload.watch_interval_s
            self._watch = FileWatch(settings.source, self._clock, interval_s)

    def _peer_server(self) -> PeerServer | None:
        router = self.router
        if router is None:
            return None
        return peer_server(
            self._settings,
            router.inference,
            router.catalog,
            routes=lambda: router.routes,
            clock=self._clock,
        )

    def _reloadable(self) -> list[Reloadable]:
        return [*self._fronts, *([self._peers] if self._peers is not None else [])]

    @property
    def in_flight_count(self) -> int:
        """Calls of clients in flight now."""
        return sum(listener.in_flight_count for listener in self._listeners())

    def _listeners(self) -> list[Listener]:
        servers = [server for server in (self._grpc, self._peers) if server is not None]
        return [*self._fronts, *servers]

    async def start(self) -> list[str]:
        """Start everything and return the addresses that listen, for a person.

        Raises:
            StartupError: Something cannot start; what had started is stopped again.
        """
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> list[str]:
        self.telemetry.start()
        self._undo.append(self.telemetry.stop)
        addresses: list[str] = []
        if self.router is not None:
            self._undo += [self._close_counts, self.router.stop]
            await self.router.start()
            self._channel = self.router.channel
        else:
            self._channel = connect_link(self._router_target or "")
            self._undo.append(self._close_channel)
        if self._grpc is not None:
            self._undo.append(self._grpc.stop)
            addresses.append(f"grpc://{await self._grpc.start()}")
            await self._grpc.mark_serving()
        if self._peers is not None:
            self._undo.append(self._peers.stop)
            addresses.append(f"peer://{await self._peers.start()}")
        metrics_listen = self._settings.core.telemetry.metrics_listen
        # One worker tells the sums of all; its successor does if it dies.
        leads = self._worker is None or self._worker.leads
        if not self._front_offers and metrics_listen and leads:
            address = self.telemetry.metrics.serve(ListenAddress.parse(metrics_listen))
            host = f"[{address.host}]" if ":" in address.host else address.host
            addresses.append(f"http://{host}:{address.port}/metrics")
        context = FrontContext(
            self._channel, self.telemetry, self._clock, self._settings.core.drain_s
        )
        for factory in self._front_offers.values():
            front = factory(context)
            self._undo.append(front.stop)
            addresses.extend(await front.start())
            self._fronts.append(front)
        return addresses

    async def _close_counts(self) -> None:
        if self._counts is not None:
            self._counts.close()

    async def _close_channel(self) -> None:
        await self._channel.close()

    async def drain(self) -> None:
        """Take no more calls, wait for those in flight, end the rest; safe to repeat."""
        await asyncio.gather(*(listener.drain() for listener in self._listeners()))

    def end_calls(self) -> None:
        """End all calls in flight with an error, now."""
        for listener in self._listeners():
            listener.end_calls()

    async def stop(self) -> None:
        """Drain and stop everything in reverse order; safe to repeat."""
        if self._undo:
            await self.drain()
        while self._undo:
            await self._undo.pop()()

    def end_now(self) -> None:
        """End `run` as two signals do: without waiting for calls in flight."""
        if self._ending is not None:
            self._ending.ask()
            self._ending.ask()

    async def run(
        self,
        started: Callable[[list[str]], None],
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Start, call `started` with the addresses, serve until SIGINT or SIGTERM, stop.

        SIGHUP reads the settings again.

        Args:
            started: Takes the addresses.
            tell: Takes what a person should know of the end.
        """
        ending = Ending(self, self._settings.core.drain_s, tell or _tell_log)
        self._ending = ending
        with ending.on_signals():
            try:
                addresses = await self.start()
                async with self._reloading():
                    started(addresses)
                    await ending.asked.wait()
            finally:
                await self.stop()

    @contextlib.asynccontextmanager
    async def _reloading(self) -> AsyncIterator[None]:
        """Reload on SIGHUP, and when the file changes if the settings say so."""
        loop, reloader = asyncio.get_running_loop(), self.reloader
        works = [reloader.serve()]
        if self._watch is not None:
            works.append(self._watch.serve(reloader.ask))
        loop.add_signal_handler(signal.SIGHUP, reloader.ask)
        try:
            async with _running(*works):
                yield
        finally:
            loop.remove_signal_handler(signal.SIGHUP)


@contextlib.asynccontextmanager
async def _running(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines beside the block."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _tell_log(text: str) -> None:
    _log.info("stopping", extra={"said": text})
