"""The backend: offers each provider's models, and sends calls to the one that was chosen."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, ClassVar, Final

from first_core.errors import BackendError, BackendUnavailableError
from first_core.plugin import Backend, Capabilities, EndpointReport
from first_core.plugin.watchdog import Watchdog
from first_core.types import EndpointId, EndpointState, Operation
from first_direct.upstream import DirectUpstream, ListedModel, ListError

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.plugin import Answer, BackendContext, Call, ChunkSink, Publish
    from first_direct.settings import DirectSettings, ModelSettings, ProviderSettings

DEFAULT_OPERATIONS: Final = {
    "anthropic": frozenset({Operation.MESSAGE, Operation.MESSAGE_TOKEN_COUNT}),
    "openai": frozenset(
        {
            Operation.CHAT,
            Operation.COMPLETION,
            Operation.EMBEDDING,
            Operation.RESPONSE,
            Operation.TRANSCRIPTION,
        }
    ),
}
"""What each dialect's models can be asked where the settings do not say."""

DOWN_INTERVAL_S: Final = 5.0
"""Longest time between two questions to a provider that is down, in seconds."""

_log = logging.getLogger(__name__)


class Provider:
    """Knows the models of one provider.

    Args:
        settings: Of the provider.
        context: What the backend got.
        watchdog: Shared by the backend's providers.
        changed: Called when `reports` may return something else than before.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        *,
        context: BackendContext,
        watchdog: Watchdog,
        changed: Callable[[], None],
    ) -> None:
        self.upstream = DirectUpstream(settings, context, watchdog)
        """The way to it."""
        self._settings = settings
        self._clock = context.clock
        self._changed = changed
        self._listed: list[ListedModel] = []
        self._is_down = False
        self._operations = (
            frozenset(settings.operations)
            if settings.operations is not None
            else DEFAULT_OPERATIONS[settings.dialect]
        )

    def reports(self) -> list[EndpointReport]:
        """Return its endpoints: the configured ones, then those that only its list has."""
        listed = {model.name: model for model in self._listed}
        reports = [
            self._configured(model, listed.get(model.upstream_name or model.name))
            for model in self._settings.models
        ]
        names = {report.id.model for report in reports}
        return reports + [
            self._report(model.name, model.name, self._operations, model)
            for model in listed.values()
            if model.name not in names
        ]

    def _configured(self, model: ModelSettings, listed: ListedModel | None) -> EndpointReport:
        served = model.upstream_name or model.name
        known = listed or ListedModel(served)
        return self._report(
            model.name,
            served,
            self._operations if model.operations is None else frozenset(model.operations),
            ListedModel(
                served, known.owner, model.context_window or known.context_window_token_count
            ),
        )

    def _report(
        self, name: str, served_model: str, operations: frozenset[Operation], known: ListedModel
    ) -> EndpointReport:
        settings = self._settings
        return EndpointReport(
            id=EndpointId(settings.name, settings.framework, name),
            served_model=served_model,
            operations=operations,
            state=EndpointState.DOWN if self._is_down else EndpointState.READY,
            state_reason="cannot be reached" if self._is_down else "",
            owner=known.owner or settings.name,
            context_window_token_count=known.context_window_token_count,
            streams_usage=settings.streams_usage,
        )

    async def follow(self) -> None:
        """Ask for the list of models again and again until cancelled."""
        while True:
            try:
                await self._ask()
            except Exception:
                _log.exception("list of models failed", extra={"provider": self._settings.name})
            self._changed()
            interval_s = self._settings.discover_interval_s
            await self._clock.sleep(
                min(interval_s, DOWN_INTERVAL_S) if self._is_down else interval_s
            )

    async def _ask(self) -> None:
        fields = {"provider": self._settings.name}
        try:
            self._listed = await self.upstream.models()
        except BackendError as exc:
            if not self._is_down:
                _log.warning("provider is down", extra={**fields, "reason": exc.message})
            self._is_down = True
            return
        except ListError as exc:
            # Something answers, so calls may work; only the list is not to be had.
            _log.warning("provider lists no models", extra={**fields, "reason": str(exc)})
        self._is_down = False


class DirectBackend(Backend):
    """Reaches APIs that are always there.

    Args:
        settings: The section `direct`.
        context: The time, and where to tell what happens.
    """

    capabilities: ClassVar = Capabilities()

    def __init__(self, settings: DirectSettings, context: BackendContext) -> None:
        self._settings = settings
        self._context = context
        self._watchdog = Watchdog(context.clock)
        self._providers: list[Provider] = []
        self._followers: list[asyncio.Task[None]] = []
        self._publish: Publish | None = None
        self._published: list[EndpointReport] = []
        self._by_endpoint: dict[EndpointId, Provider] = {}

    async def start(self, publish: Publish) -> None:
        """Publish the configured models, and begin to ask for the lists."""
        self._publish, self._published = publish, []
        self._providers = [
            Provider(
                settings, context=self._context, watchdog=self._watchdog, changed=self._changed
            )
            for settings in self._settings.providers
        ]
        for provider in self._providers:
            await provider.upstream.start()
        self._changed()
        self._followers = [
            asyncio.create_task(provider.follow())
            for provider, settings in zip(self._providers, self._settings.providers, strict=True)
            if settings.discover
        ]

    async def stop(self) -> None:
        """Stop asking, and close all connections."""
        followers, self._followers = self._followers, []
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
        for provider in self._providers:
            await provider.upstream.stop()

    async def call(self, call: Call) -> Answer:
        """Run one call at its provider."""
        return await self._provider_of(call).upstream.call(call)

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call at its provider and write its answer into `sink`."""
        await self._provider_of(call).upstream.stream(call, sink)

    def _provider_of(self, call: Call) -> Provider:
        provider = self._by_endpoint.get(call.endpoint)
        if provider is None:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)
        return provider

    def _changed(self) -> None:
        reports: list[EndpointReport] = []
        self._by_endpoint = {}
        for provider in self._providers:
            own = provider.reports()
            reports += own
            self._by_endpoint.update((report.id, provider) for report in own)
        if self._publish is not None and reports != self._published:
            self._published = reports
            self._publish(reports)
