"""A backend in memory whose calls do what a test says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from first_core.plugin import Answer, Backend, Call, ChunkSink, EndpointReport, Publish, hookimpl
from first_core.types import EndpointId, EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_core.plugin import BackendContext, BackendRegister, PluginSettings

OnCall: TypeAlias = "Callable[[Call], Awaitable[Answer]]"
OnStream: TypeAlias = "Callable[[Call, ChunkSink], Awaitable[None]]"


def ready(
    model: str = "m",
    *,
    cluster: str = "c",
    framework: str = "f",
    served_model: str | None = None,
    state: EndpointState = EndpointState.READY,
    operations: frozenset[Operation] = frozenset(Operation),
) -> EndpointReport:
    """Return the report of one endpoint that is ready for everything, but for what is said."""
    return EndpointReport(
        id=EndpointId(cluster, framework, model),
        served_model=served_model or model,
        operations=operations,
        state=state,
    )


class ScriptedBackend(Backend):
    """Publishes `reports` at start, and keeps each call it gets in `calls`.

    Args:
        *reports: Endpoints to publish.
        on_call: Runs plain calls.
        on_stream: Runs streamed calls.
    """

    def __init__(
        self,
        *reports: EndpointReport,
        on_call: OnCall | None = None,
        on_stream: OnStream | None = None,
    ) -> None:
        self._reports = reports
        self._on_call = on_call
        self._on_stream = on_stream
        self.calls: list[Call] = []
        self.publish: Publish | None = None

    async def start(self, publish: Publish) -> None:
        """Publish the reports."""
        self.publish = publish
        publish(self._reports)

    async def stop(self) -> None:
        """Publish nothing more."""
        self.publish = None

    async def call(self, call: Call) -> Answer:
        """Keep the call and run `on_call`."""
        self.calls.append(call)
        if self._on_call is None:
            raise NotImplementedError("this scripted backend has no on_call")
        return await self._on_call(call)

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Keep the call and run `on_stream`."""
        self.calls.append(call)
        if self._on_stream is None:
            raise NotImplementedError("this scripted backend has no on_stream")
        await self._on_stream(call, sink)


class BackendPlugin:
    """A plugin that offers finished backends, by kind."""

    def __init__(self, **backends: Backend) -> None:
        self._backends = backends

    @hookimpl
    def first_register_backends(self, register: BackendRegister, settings: PluginSettings) -> None:
        """Offer the backends."""
        del settings
        for kind, backend in self._backends.items():

            def factory(context: BackendContext, backend: Backend = backend) -> Backend:
                del context
                return backend

            register(kind, factory)
