"""The backend: follows each server's state, and sends calls to the one that was chosen."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, ClassVar, Final

from first_core.errors import BackendError, BackendTimeoutError, BackendUnavailableError
from first_core.plugin import Backend, Capabilities, EndpointReport
from first_core.plugin.watchdog import Watchdog
from first_core.types import EndpointId, EndpointState, Operation
from first_vllm.managed import ManagedServer
from first_vllm.managed_run import check_command
from first_vllm.settings import ServerSettings
from first_vllm.upstream import ProbeError, ServedModel, VllmUpstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import TimerHandle
    from first_core.plugin import Answer, BackendContext, Call, ChunkSink, Publish
    from first_core.types import EndpointLoad
    from first_vllm.managed_settings import ManagedSettings
    from first_vllm.settings import VllmSettings

MODELS_EVERY_PROBES: Final = 5
"""The list of models, which changes where adapters are loaded, is read at each fifth look."""

MAX_SILENT_PROBES: Final = 3
"""Looks without an answer after which a server counts as down. One late answer says nothing: the
route shares its process with tokenising, so it is slow under load."""

QUIET_S: Final = 0.2
"""Shortest time from a look to one that failing calls cause, in seconds: many may fail at once."""

START_WAIT_S: Final = 0.5
"""Longest wait of `start` for the first look, in seconds: servers nearby are known when the first
call comes, and one that does not answer delays no start."""

_log = logging.getLogger(__name__)


class Server:
    """Follows one server.

    Args:
        settings: Of the server.
        replica: Its name among those of its cluster and framework.
        context: What the backend got.
        watchdog: Shared by the backend's servers.
        changed: Called when `reports` may return something else than before.
        looked: Called after each look.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        replica: str,
        context: BackendContext,
        watchdog: Watchdog,
        changed: Callable[[], None],
        looked: Callable[[], None],
    ) -> None:
        self.upstream = VllmUpstream(settings, context, watchdog)
        """The way to it."""
        self.has_looked = False
        """Whether the first look is over."""
        self._settings = settings
        self._replica = replica
        self._clock = context.clock
        self._changed = changed
        self._looked = looked
        self._wake = asyncio.Event()
        self._models: list[ServedModel] = []
        self._operations: frozenset[Operation] = frozenset()
        self._load: EndpointLoad | None = None
        self._is_ready = False
        self._reason = ""
        self._silent_count = 0
        self._until_models = 0
        self._quiet_until_s = 0.0
        self._early: TimerHandle | None = None

    def reports(self) -> list[EndpointReport]:
        """Return its endpoints; none until it was seen for the first time."""
        return [self._report(model) for model in self._models]

    def _report(self, model: ServedModel) -> EndpointReport:
        settings = self._settings
        return EndpointReport(
            id=EndpointId(settings.cluster, settings.framework, model.name, self._replica),
            served_model=model.name,
            operations=self._operations,
            state=EndpointState.READY if self._is_ready else EndpointState.DOWN,
            state_reason=self._reason,
            owner=model.owner,
            context_window_token_count=model.context_window_token_count,
            load=self._load,
            continues_messages=settings.continues_messages,
        )

    async def call(self, call: Call) -> Answer:
        """Run one call; raises as `Backend.call`."""
        try:
            return await self.upstream.call(call)
        except BackendError:
            self.poke()
            raise

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink`; raises as `Backend.stream`."""
        try:
            await self.upstream.stream(call, sink)
        except BackendError:
            self.poke()
            raise

    def poke(self) -> None:
        """Look soon: a call met something odd. Does nothing where it is known to be down."""
        if self._is_ready and self._early is None:
            self._look_early(self._quiet_until_s - self._clock.monotonic())

    def _look_early(self, delay_s: float) -> None:
        self._early = self._clock.call_later(max(0.0, delay_s), self._wake.set)

    async def follow(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self._probe()
            except Exception:
                _log.exception("look at a vLLM server failed", extra={"server": self._settings.url})
            self.has_looked = True
            self._quiet_until_s = self._clock.monotonic() + QUIET_S
            self._looked()
            await self._pause()

    async def _pause(self) -> None:
        # The jitter keeps many gateways from looking all at once.
        self._wake.clear()
        if self._early is not None:  # poked amid the look, which may have begun before the fault
            self._early.cancel()
            self._look_early(QUIET_S)
        delay_s = self._settings.probe_interval_s * random.uniform(0.8, 1.0)  # noqa: S311
        timer = self._clock.call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()
            if self._early is not None:
                self._early.cancel()
                self._early = None

    async def _probe(self) -> None:
        try:
            await self._look()
        except BackendTimeoutError:
            self._silent_count += 1
            if self._silent_count >= MAX_SILENT_PROBES:
                self._set_down("does not answer")
        except BackendError:
            self._set_down("cannot be reached")
        except ProbeError as exc:
            self._set_down(str(exc))

    async def _look(self) -> None:
        await self.upstream.check_health()
        models, operations = self._models, self._operations
        if not self._is_ready or self._until_models <= 0:
            models = await self.upstream.models()
            self._until_models = MODELS_EVERY_PROBES
        if not self._is_ready:
            operations = await self._find_operations()
        load = await self.upstream.load()
        self._until_models -= 1
        self._set_ready(models, operations, load)

    async def _find_operations(self) -> frozenset[Operation]:
        if self._settings.operations is not None:
            return frozenset(self._settings.operations)
        return await self.upstream.operations() or frozenset(Operation)

    def _set_ready(
        self,
        models: list[ServedModel],
        operations: frozenset[Operation],
        load: EndpointLoad | None,
    ) -> None:
        if not self._is_ready:
            _log.info("vLLM server is up", extra={"server": self._settings.url})
        self._silent_count = 0
        self._is_ready, self._reason = True, ""
        self._models, self._operations, self._load = models, operations, load
        self._changed()

    def _set_down(self, reason: str) -> None:
        self._silent_count = 0
        if self._is_ready:
            _log.warning(
                "vLLM server is down", extra={"server": self._settings.url, "reason": reason}
            )
        self._is_ready, self._reason, self._load = False, reason, None
        self._changed()


class VllmBackend(Backend):
    """Reaches vLLM servers that are already running, and runs those that it is told to manage.

    Args:
        settings: The section `vllm`.
        context: The time, and where to tell what happens.
    """

    capabilities: ClassVar = Capabilities(follows_state=True)

    def __init__(self, settings: VllmSettings, context: BackendContext) -> None:
        self._settings = settings
        self._context = context
        self._watchdog = Watchdog(context.clock)
        self._servers: list[Server] = []
        self._followers: list[asyncio.Task[None]] = []
        self._first_looks = asyncio.Event()
        self._publish: Publish | None = None
        self._published: list[EndpointReport] = []
        self._managed: list[ManagedServer] = []
        self._by_endpoint: dict[EndpointId, Server | ManagedServer] = {}

    async def start(self, publish: Publish) -> None:
        """Begin to follow the servers, and to run those that are managed."""
        for managed in self._settings.managed:
            check_command(managed)
        self._publish, self._published = publish, []
        self._servers = [
            self._server(settings, replica, changed=self._changed, looked=self._looked)
            for settings, replica in zip(
                self._settings.servers, self._settings.replicas(), strict=True
            )
        ]
        for server in self._servers:
            await server.upstream.start()
        self._first_looks.clear()
        self._followers = [asyncio.create_task(server.follow()) for server in self._servers]
        self._managed = [self._manage(settings) for settings in self._settings.managed]
        self._followers += [asyncio.create_task(managed.run()) for managed in self._managed]
        self._changed()
        await self._wait_first_looks()

    def _server(
        self,
        settings: ServerSettings,
        replica: str,
        *,
        changed: Callable[[], None],
        looked: Callable[[], None],
    ) -> Server:
        return Server(
            settings,
            replica=replica,
            context=self._context,
            watchdog=self._watchdog,
            changed=changed,
            looked=looked,
        )

    def _manage(self, settings: ManagedSettings) -> ManagedServer:
        def make_server(port: int, stirred: Callable[[], None]) -> Server:
            return self._server(
                _running(settings, port), settings.name, changed=stirred, looked=stirred
            )

        return ManagedServer(
            settings, clock=self._context.clock, make_server=make_server, changed=self._changed
        )

    async def _wait_first_looks(self) -> None:
        timer = self._context.clock.call_later(START_WAIT_S, self._first_looks.set)
        try:
            self._looked()
            await self._first_looks.wait()
        finally:
            timer.cancel()

    def _looked(self) -> None:
        if all(server.has_looked for server in self._servers):
            self._first_looks.set()

    async def stop(self) -> None:
        """Stop following, close all connections, and end the servers that are managed."""
        self._publish = None
        followers, self._followers = self._followers, []
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        for server in self._servers:
            await server.upstream.stop()

    def wake(self, endpoint: EndpointId) -> None:
        """Start the server of an endpoint that is cold."""
        server = self._by_endpoint.get(endpoint)
        if isinstance(server, ManagedServer):
            server.wake()

    async def call(self, call: Call) -> Answer:
        """Run one call on its server."""
        return await self._server_of(call).call(call)

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call on its server and write its answer into `sink`."""
        await self._server_of(call).stream(call, sink)

    def _server_of(self, call: Call) -> Server | ManagedServer:
        server = self._by_endpoint.get(call.endpoint)
        if server is None:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)
        return server

    def _changed(self) -> None:
        reports: list[EndpointReport] = []
        self._by_endpoint = {}
        servers: list[Server | ManagedServer] = [*self._servers, *self._managed]
        for server in servers:
            own = server.reports()
            reports += own
            self._by_endpoint.update((report.id, server) for report in own)
        if self._publish is not None and reports != self._published:
            self._published = reports
            self._publish(reports)


def _running(settings: ManagedSettings, port: int) -> ServerSettings:
    """Return how a managed server is reached while it runs."""
    return ServerSettings(
        url=f"http://127.0.0.1:{port}",
        cluster=settings.cluster,
        framework=settings.framework,
        name=settings.name,
        api_key=settings.api_key,
        probe_interval_s=settings.probe_interval_s,
        operations=settings.operations,
        continues_messages=settings.continues_messages,
        upstream=settings.upstream,
    )
