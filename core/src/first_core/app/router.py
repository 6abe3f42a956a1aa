"""The router of a process: catalog, backends and the run of a call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from first_core.domain.catalog import Catalog
from first_core.domain.config import relay_config, tune_for
from first_core.domain.relay import Relay
from first_core.domain.routes import Routes
from first_core.errors import StartupError
from first_core.plugin import BackendContext, PluginSettings
from first_core.rpc.catalog import CatalogServicer
from first_core.rpc.direct import DirectChannel
from first_core.rpc.inference import InferenceServicer
from first_core.rpc.server import add_services

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.plugin.host import PluginHost
    from first_core.settings import Settings
    from first_core.telemetry import Telemetry


class Router:
    """The core, behind an in-process channel.

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
        try:
            async with asyncio.TaskGroup() as group:
                for kind, backend in self._backends.items():
                    group.create_task(backend.start(self.catalog.publisher(kind, backend)))
        except BaseExceptionGroup as group_of_errors:
            startup, other = group_of_errors.split(StartupError)
            if other is not None or startup is None:
                raise
            message = "\n".join(str(exc) for exc in startup.exceptions)
            raise StartupError(message) from group_of_errors

    async def stop(self) -> None:
        """Stop the backends; safe to repeat."""
        await asyncio.gather(*(backend.stop() for backend in self._backends.values()))
