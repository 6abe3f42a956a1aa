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
from first_vllm.upstream import ProbeError, ServedModel, VllmUpstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import TimerHandle
    from first_core.plugin import Answer, BackendContext, Call, ChunkSink, Publish
    from first_core.types import EndpointLoad
    from first_vllm.settings import ServerSettings, VllmSettings

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
    """Reaches vLLM servers that are already running.

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
        self._by_endpoint: dict[EndpointId, Server] = {}

    async def start(self, publish: Publish) -> None:
        """Begin to follow the servers."""
        self._publish, self._published = publish, []
        self._servers = [
            Server(
                settings,
                replica=replica,
                context=self._context,
                watchdog=self._watchdog,
                changed=self._changed,
                looked=self._looked,
            )
            for settings, replica in zip(
                self._settings.servers, self._settings.replicas(), strict=True
            )
        ]
        for server in self._servers:
            await server.upstream.start()
        self._first_looks.clear()
        self._followers = [asyncio.create_task(server.follow()) for server in self._servers]
        await self._wait_first_looks()

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
        """Stop following, and close all connections."""
        followers, self._followers = self._followers, []
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        for server in self._servers:
            await server.upstream.stop()

    async def call(self, call: Call) -> Answer:
        """Run one call on its server."""
        server = self._server_of(call)
        try:
            return await server.upstream.call(call)
        except BackendError:
            server.poke()
            raise

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call on its server and write its answer into `sink`."""
        server = self._server_of(call)
        try:
            await server.upstream.stream(call, sink)
        except BackendError:
            server.poke()
            raise

    def _server_of(self, call: Call) -> Server:
        server = self._by_endpoint.get(call.endpoint)
        if server is None:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)
        return server

    def _changed(self) -> None:
        reports: list[EndpointReport] = []
        self._by_endpoint = {}
        for server in self._servers:
            own = server.reports()
            reports += own
            self._by_endpoint.update((report.id, server) for report in own)
        if self._publish is not None and reports != self._published:
            self._published = reports
            self._publish(reports)
