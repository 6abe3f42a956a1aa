"""The router of a process: catalog, backends and the run of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.app.backends import Backends
from first_core.domain.call_count import LocalCounts
from first_core.domain.catalog import Catalog
from first_core.domain.config import relay_config, tune_for
from first_core.domain.relay import Relay
from first_core.domain.routes import Routes
from first_core.plugin import BackendContext
from first_core.rpc.catalog import CatalogServicer
from first_core.rpc.direct import DirectChannel
from first_core.rpc.inference import InferenceServicer
from first_core.rpc.server import add_services

if TYPE_CHECKING:
    from first_core.app.backends import Change
    from first_core.clock import Clock
    from first_core.domain.call_count import CountOf
    from first_core.domain.catalog import Tune
    from first_core.domain.config import RelayConfig
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
        count_of: Counts calls in flight; `None`: those of this process alone.
    """

    def __init__(
        self,
        settings: Settings,
        host: PluginHost,
        telemetry: Telemetry,
        clock: Clock,
        count_of: CountOf | None = None,
    ) -> None:
        self._clock = clock
        self._count_of = count_of or LocalCounts()
        self._policies = host.policies().offers()
        self.catalog = Catalog(clock, self._tune(settings))
        context = BackendContext(clock=clock, telemetry=telemetry)
        self._backends = Backends(host, context, self.catalog, clock)
        self._backends.make(settings)
        self.relay = Relay(
            config=self._relay_config(settings),
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

    def _tune(self, settings: Settings) -> Tune:
        return tune_for(settings.core, self._clock, self._count_of)

    def _relay_config(self, settings: Settings) -> RelayConfig:
        routes = Routes(settings.core.routing, self._policies, self.catalog)
        return relay_config(settings.core, routes, self._clock)

    async def start(self) -> None:
        """Start the backends, all at once.

        Raises:
            StartupError: One of them can never work as it is set.
        """
        await self._backends.start()

    async def prepare(self, settings: Settings) -> Change:
        """Get ready for new settings: check routes, start backends whose sections changed.

        Raises:
            StartupError: They can never work; nothing has changed.
        """
        self._relay_config(settings)
        return await self._backends.prepare(settings)

    def configure(self, settings: Settings, change: Change, *, drain_s: float) -> list[str]:
        """Run calls that begin from now on by new settings; those in flight keep what they had.

        Args:
            settings: The new ones.
            change: What `prepare` returned for them.
            drain_s: How long replaced backends wait for their calls, in seconds.

        Returns:
            The kinds of backends that changed.
        """
        self.relay.configure(self._relay_config(settings))
        self.inference.configure(max_body_bytes=settings.core.limits.max_body_bytes)
        self.catalog.retune(self._tune(settings))
        return self._backends.apply(change, drain_s=drain_s)

    async def stop(self) -> None:
        """Stop the backends; safe to repeat."""
        await self._backends.stop()
