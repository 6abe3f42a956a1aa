"""A router in the bench's own process, with endpoints that need no network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.app import Router, add_built_ins
from first_core.clock import SystemClock
from first_core.plugin import Answer, Backend, EndpointReport
from first_core.plugin.host import PluginHost
from first_core.settings import CoreSettings, RoutingSettings, Settings
from first_core.telemetry import Telemetry
from first_core.testing.scripted import BackendPlugin
from first_core.types import EndpointId, EndpointLoad, EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.plugin import Call, ChunkSink, Publish

OPERATIONS: Final = frozenset({Operation.CHAT, Operation.COMPLETION})

ANSWER: Final = Answer(
    b'{"id":"x","object":"chat.completion","model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":'
    b'{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}',
    "application/json",
)


class InstantBackend(Backend):
    """Endpoints that answer at once."""

    def __init__(self) -> None:
        self.publish: Publish | None = None

    async def start(self, publish: Publish) -> None:
        self.publish = publish

    async def stop(self) -> None:
        self.publish = None

    async def call(self, call: Call) -> Answer:
        del call
        return ANSWER

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        del call, sink
        raise NotImplementedError("nothing here streams")


def report(cluster: str, model: str, *, running_count: int) -> EndpointReport:
    """An endpoint that is ready and tells its load."""
    return EndpointReport(
        id=EndpointId(cluster, "vllm", model),
        served_model=model,
        operations=OPERATIONS,
        state=EndpointState.READY,
        owner="bench",
        context_window_token_count=8192,
        load=EndpointLoad(running_count, 0, 0.01 * (running_count % 100)),
    )


async def build(
    reports: Sequence[EndpointReport], routing: RoutingSettings
) -> tuple[Router, Publish]:
    """A router that has started, with these endpoints; and what publishes others."""
    host, backend, clock = PluginHost(), InstantBackend(), SystemClock()
    add_built_ins(host)
    host.add("bench", BackendPlugin(bench=backend))
    core = CoreSettings(routing=routing)
    telemetry = Telemetry(core.telemetry, core.log, clock)
    router = Router(Settings(core=core, sections={}, source=None), host, telemetry, clock)
    await router.start()
    assert backend.publish is not None  # noqa: S101 - `start` has set it
    backend.publish(reports)
    return router, backend.publish
