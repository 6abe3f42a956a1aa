"""The domain without a carrier: a relay over scripted endpoints, on a clock that stands still."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from first_core.domain.calls import IncomingCall
from first_core.domain.catalog import Catalog
from first_core.domain.config import relay_config, tune_for
from first_core.domain.relay import Relay
from first_core.domain.routes import Routes
from first_core.errors import BackendUnavailableError
from first_core.plugin import Answer
from first_core.plugin.registers import PolicyRegister
from first_core.policies.plugin import first_register_policies
from first_core.settings import CoreSettings, LogSettings, TelemetrySettings
from first_core.telemetry import Telemetry
from first_core.testing.clock import FakeClock
from first_core.testing.scripted import ScriptedBackend, ready
from first_core.types import EndpointId, Operation, Pin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from first_core.domain.admission import Progress
    from first_core.domain.calls import Head, Result, Trailer
    from first_core.domain.catalog import Endpoint
    from first_core.plugin import Call, ChunkSink, EndpointReport
    from first_core.telemetry import CallRecord


class Written:
    """What a client got of a streamed answer."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.progress_told: list[Progress] = []
        self.data_got = b""
        self.told = asyncio.Event()

    async def progress(self, progress: Progress) -> None:
        self.progress_told.append(progress)
        self.told.set()

    async def head(self, head: Head) -> None:
        self.heads.append(head)

    async def data(self, data: bytes) -> None:
        self.data_got += data


class Script:
    """What one endpoint does with calls: the next of `then`, the last one for ever.

    An exception is raised, an event is waited for, bytes are answered or streamed.
    """

    def __init__(self, *then: Any) -> None:
        self.then = list(then) or [b"{}"]
        self.calls: list[Call] = []
        self.begun = asyncio.Event()
        self.cancelled_count = 0

    async def _next(self, call: Call) -> Any:
        self.calls.append(call)
        self.begun.set()
        step = self.then.pop(0) if len(self.then) > 1 else self.then[0]
        if isinstance(step, asyncio.Event):
            try:
                await step.wait()
            except asyncio.CancelledError:
                self.cancelled_count += 1
                raise
            return b"{}"
        if isinstance(step, Exception):
            raise step
        return step

    async def call(self, call: Call) -> Answer:
        return Answer(await self._next(call), "application/json")

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        steps = await self._next(call)
        sink.start("text/event-stream")
        for step in steps if isinstance(steps, list) else [steps]:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif sink.write(step):
                await sink.drain()


class World:
    """A relay with its catalog and its clock."""

    def __init__(self, **settings: Any) -> None:
        self.clock = FakeClock()
        self.settings = CoreSettings(
            log=LogSettings(level="error"),
            telemetry=TelemetrySettings(metrics_listen=None),
            **settings,
        )
        self.catalog = Catalog(self.clock, tune_for(self.settings, self.clock))
        register = PolicyRegister("policy")
        first_register_policies(register)
        self.routes = Routes(self.settings.routing, register.offers(), self.catalog)
        self.records: list[CallRecord] = []
        self.config = relay_config(self.settings, self.routes, self.clock)
        self.relay = Relay(
            config=self.config,
            telemetry=Telemetry(self.settings.telemetry, self.settings.log, self.clock),
            clock=self.clock,
            watchers=[self.records.append],
        )
        self.publishers: dict[str, Any] = {}
        self.woken: list[EndpointId] = []

    def add(self, cluster: str, *then: Any, **fields: Any) -> Script:
        """Publish one endpoint, of a backend of its own, that does what `then` says."""
        script = Script(*then)
        backend = ScriptedBackend(on_call=script.call, on_stream=script.stream)
        backend.wake = self.woken.append  # type: ignore[method-assign]
        self.publishers[cluster] = self.catalog.publisher(cluster, backend)
        self.publish(cluster, **fields)
        return script

    def publish(self, cluster: str, **fields: Any) -> None:
        """Say how the endpoint stands now."""
        base: EndpointReport = ready(fields.pop("model", "m"), cluster=cluster)
        self.publishers[cluster]([replace(base, **fields)])

    def remove(self, cluster: str) -> None:
        """Publish the endpoint no longer."""
        self.publishers[cluster]([])

    def endpoint(self, cluster: str) -> Endpoint:
        return next(e for e in self.catalog.endpoints() if e.id.cluster == cluster)

    def incoming(self, body: bytes = b'{"model":"m"}', **fields: Any) -> IncomingCall:
        base = IncomingCall(
            operation=Operation.CHAT,
            body=body,
            content_type="application/json",
            model="",
            pin=Pin(),
            headers={},
            request_id="r",
            trace=None,
            first_chunk_timeout_s=None,
            time_remaining_s=None,
        )
        return replace(base, **fields)

    async def call(self, body: bytes = b'{"model":"m"}', **fields: Any) -> Result:
        return await self.relay.call(self.incoming(body, **fields))

    def begin(self, **fields: Any) -> asyncio.Task[Result]:
        """Start a call beside the test."""
        return asyncio.ensure_future(self.call(**fields))

    async def stream(
        self, body: bytes = b'{"model":"m"}', *, written: Written | None = None, **fields: Any
    ) -> tuple[Written, Trailer]:
        written = written or Written()
        trailer = await self.relay.stream(self.incoming(body, **fields), written)
        return written, trailer

    def in_flight(self) -> dict[str, int]:
        return {e.id.cluster: e.gate.in_flight_count for e in self.catalog.endpoints()}

    def assert_idle(self) -> None:
        """Nothing is left behind: no slot, no ticket, no timer."""
        assert not any(self.in_flight().values())
        assert not any(len(e.gate.queue) for e in self.catalog.endpoints())
        assert self.clock.timer_count == 0


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def fault() -> BackendUnavailableError:
    return BackendUnavailableError("it broke")


@pytest.fixture
def world() -> Iterator[Callable[..., World]]:
    """Make a world with these settings."""
    worlds: list[World] = []

    def make(**settings: Any) -> World:
        worlds.append(World(**settings))
        return worlds[-1]

    yield make
    for one in worlds:
        one.assert_idle()


@pytest.fixture
def settled() -> Any:
    """Let every task go as far as it can."""
    return settle


@pytest.fixture
def written() -> Written:
    """What a client gets."""
    return Written()
