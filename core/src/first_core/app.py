"""Composition root: builds and wires a process, decides nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
from importlib import metadata
from typing import TYPE_CHECKING

from first_core.client import connect_link
from first_core.clock import Clock, SystemClock
from first_core.domain.catalog import Catalog
from first_core.domain.config import relay_config, tune_for
from first_core.domain.relay import Relay
from first_core.domain.routes import Routes
from first_core.errors import StartupError
from first_core.plugin import BackendContext, FrontContext, PluginSettings
from first_core.rpc.catalog import CatalogServicer
from first_core.rpc.direct import DirectChannel
from first_core.rpc.inference import InferenceServicer
from first_core.rpc.server import GrpcServer, add_services
from first_core.settings import (
    ListenAddress,
    Settings,
    load_settings,
    plugin_allow_list,
)
from first_core.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import Any

    from first_core.plugin import Front
    from first_core.plugin.host import PluginHost

_log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""How long calls in flight may go on after the process is told to end, in seconds."""


def load_host(path: Path | None) -> PluginHost:
    """Load the plugins that a settings file allows.

    Raises:
        StartupError: The file cannot be read, or a plugin cannot be loaded.
    """
    from first_core.plugin.host import PluginHost as Host  # noqa: PLC0415

    host = Host(allow=plugin_allow_list(path))
    add_built_ins(host)
    host.load()
    return host


def add_built_ins(host: PluginHost) -> None:
    """Add what comes with the core and uses the same hooks as any plugin."""
    from first_core.policies import plugin as policies  # noqa: PLC0415

    core = metadata.distribution("first-core")
    host.add("policies", policies, distribution=core.name, version=core.version)


def read_settings(path: Path | None, host: PluginHost) -> Settings:
    """Read and validate the settings, the plugins' sections included.

    Raises:
        SettingsError: One line per fault.
    """
    return load_settings(path, host.settings_sections().offers())


class Router:
    """The core: catalog, backends and the run of a call, behind an in-process channel.

    Args:
        settings: The whole tree.
        host: The plugins.
        telemetry: Of this process.
        clock: The time.
    """

    def __init__(
        self, settings: Settings, host: PluginHost, telemetry: Telemetry, clock: Clock
    ) -> None:
        context = BackendContext(clock=clock, telemetry=telemetry)
        offers = host.backends(PluginSettings(settings.sections)).offers()
        self._backends = {kind: factory(context) for kind, factory in offers.items()}
        self._clock = clock
        self._policies = host.policies().offers()
        self.catalog = Catalog(clock, tune_for(settings.core, clock))
        routes = Routes(settings.core.routing, self._policies, self.catalog)
        self.relay = Relay(
            config=relay_config(settings.core, routes, clock),
            telemetry=telemetry,
            clock=clock,
            watchers=host.call_watchers(),
        )
        self.inference = InferenceServicer(
            self.relay, max_body_bytes=settings.core.limits.max_body_bytes
        )
        self.catalog_servicer = CatalogServicer(self.catalog, lambda: self.relay.config.routes)
        self.channel = DirectChannel()
        add_services(self.channel, self.inference, self.catalog_servicer)

    @property
    def routes(self) -> Routes:
        """The routes as they are configured now."""
        return self.relay.config.routes

    async def start(self) -> None:
        """Start the backends, all at once.

        Raises:
            StartupError: One of them can never work as it is set.
        """
        async with asyncio.TaskGroup() as group:
            for kind, backend in self._backends.items():
                group.create_task(backend.start(self.catalog.publisher(kind, backend)))

    async def stop(self) -> None:
        """Stop the backends; safe to repeat."""
        await asyncio.gather(*(backend.stop() for backend in self._backends.values()))


class Process:
    """One process: a router, or a channel to one elsewhere, with the listeners before it.

    Args:
        settings: The whole tree.
        host: The plugins.
        router_target: Where the router is; `None`: in this process.
        with_fronts: Whether clients' fronts listen here.
        clock: The time.
    """

    def __init__(
        self,
        settings: Settings,
        host: PluginHost,
        *,
        router_target: str | None = None,
        with_fronts: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        core = settings.core
        self.telemetry = Telemetry(core.telemetry, core.log, self._clock)
        self.router: Router | None = None
        self._grpc: GrpcServer | None = None
        if router_target is None:
            self.router = Router(settings, host, self.telemetry, self._clock)
            if core.grpc.listen is not None:
                self._grpc = GrpcServer(
                    core.grpc, self.router.inference, self.router.catalog_servicer
                )
        self._router_target = router_target
        self._channel: Any = None
        self._fronts: list[Front] = []
        self._front_offers = (
            host.fronts(PluginSettings(settings.sections)).offers() if with_fronts else {}
        )
        self._undo: list[Callable[[], Awaitable[None]]] = []

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
            self._undo.append(self.router.stop)
            await _start_router(self.router)
            self._channel = self.router.channel
        else:
            self._channel = connect_link(self._router_target or "")
            self._undo.append(self._close_channel)
        if self._grpc is not None:
            self._undo.append(self._stop_grpc)
            addresses.append(f"grpc://{await self._grpc.start()}")
            await self._grpc.mark_serving()
        metrics_listen = self._settings.core.telemetry.metrics_listen
        if not self._front_offers and metrics_listen:
            address = self.telemetry.metrics.serve(ListenAddress.parse(metrics_listen))
            host = f"[{address.host}]" if ":" in address.host else address.host
            addresses.append(f"http://{host}:{address.port}/metrics")
        for factory in self._front_offers.values():
            front = factory(FrontContext(self._channel, self.telemetry, self._clock))
            self._undo.append(front.stop)
            addresses.extend(await front.start())
        return addresses

    async def _close_channel(self) -> None:
        await self._channel.close()

    async def _stop_grpc(self) -> None:
        if self._grpc is not None:
            await self._grpc.stop(STOP_GRACE_S)

    async def stop(self) -> None:
        """Stop everything in reverse order; safe to repeat."""
        while self._undo:
            await self._undo.pop()()

    async def run(self, started: Callable[[list[str]], None]) -> None:
        """Start, call `started` with the addresses, serve until SIGINT or SIGTERM, stop."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        try:
            started(await self.start())
            await ended.wait()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
            await self.stop()


async def _start_router(router: Router) -> None:
    try:
        await router.start()
    except BaseExceptionGroup as group:
        startup, other = group.split(StartupError)
        if other is not None or startup is None:
            raise
        raise StartupError("\n".join(str(exc) for exc in startup.exceptions)) from group
