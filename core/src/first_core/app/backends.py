"""The backends of a router: started, replaced by others, stopped when their calls have ended."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from first_core.errors import StartupError
from first_core.plugin import PluginSettings
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from first_core.clock import Clock
    from first_core.domain.catalog import Catalog, Endpoint
    from first_core.plugin import Backend, BackendContext, EndpointReport, Publish
    from first_core.plugin.host import PluginHost
    from first_core.settings import Section, Settings
    from first_core.types import EndpointId

SETTLE_S: Final = 3.0
"""Longest wait for a new backend to find what the old one has ready, in seconds: local servers
answer within one."""

LOOK_S: Final = 0.2
"""How often it is looked whether the calls of a replaced backend have ended, in seconds."""

_log = logging.getLogger(__name__)


class Stage:
    """Stands between a backend and the catalog: keeps what it publishes until it goes live."""

    def __init__(self) -> None:
        self.reports: Sequence[EndpointReport] = ()
        self._live: Publish | None = None
        self._changed = asyncio.Event()

    def publish(self, reports: Sequence[EndpointReport]) -> None:
        """Take what the backend says."""
        self.reports = reports
        self._changed.set()
        if self._live is not None:
            self._live(reports)

    def go_live(self, publish: Publish) -> None:
        """Hand on what was said, and from now on all that is."""
        self._live = publish
        publish(self.reports)

    def close(self) -> None:
        """Hand on nothing more: another backend speaks now."""
        self._live = None

    async def wait_ready(self, wanted: frozenset[EndpointId]) -> None:
        """Wait until all of `wanted` are ready."""
        while wanted - {r.id for r in self.reports if r.state is EndpointState.READY}:
            self._changed.clear()
            await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Running:
    """One backend, and the sections that it was made from."""

    kind: str
    backend: Backend
    sections: Mapping[str, Section]
    stage: Stage


@dataclass(frozen=True, slots=True)
class Change:
    """Backends that run already and wait to go live, and kinds that are no longer offered."""

    new: tuple[Running, ...]
    gone: tuple[str, ...]
    section_keys: frozenset[str]
    """Sections that backends are made from."""


class Backends:
    """Those of one router.

    Args:
        host: Offers them.
        context: What they get.
        catalog: Takes what they publish.
        clock: The time.
    """

    def __init__(
        self, host: PluginHost, context: BackendContext, catalog: Catalog, clock: Clock
    ) -> None:
        self._host = host
        self._context = context
        self._catalog = catalog
        self._clock = clock
        self._running: dict[str, Running] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    def make(self, settings: Settings) -> None:
        """Make all backends; `start` starts them.

        Raises:
            StartupError: One cannot be made.
        """
        self._running = {running.kind: running for running in self._make(settings)}

    def _make(self, settings: Settings) -> list[Running]:
        register = self._host.backends(PluginSettings(settings.sections))
        made = []
        for kind, factory in register.offers().items():
            backend = factory(self._context)
            keys = register.section_keys(kind)
            sections = {key: settings.sections[key] for key in keys}
            made.append(Running(kind, backend, sections, Stage()))
        return made

    async def start(self) -> None:
        """Start all at once, live.

        Raises:
            StartupError: One of them can never work as it is set.
        """
        for running in self._running.values():
            self._go_live(running)
        await _start_all(self._running.values())

    def _go_live(self, running: Running) -> None:
        running.stage.go_live(self._catalog.publisher(running.kind, running.backend))

    async def prepare(self, settings: Settings) -> Change:
        """Start the backends whose sections changed, and wait a little until they are ready.

        Raises:
            StartupError: One of them can never work as it is set; nothing has changed.
        """
        made = self._make(settings)
        new = tuple(r for r in made if self._is_new(r))
        try:
            await _start_all(new)
            await self._settle(new)
        except BaseException:
            await _stop_all(new)
            raise
        gone = tuple(self._running.keys() - {running.kind for running in made})
        keys = frozenset(key for running in made for key in running.sections)
        return Change(new, gone, keys)

    def _is_new(self, running: Running) -> bool:
        old = self._running.get(running.kind)
        return old is None or old.sections != running.sections

    async def _settle(self, new: Sequence[Running]) -> None:
        ready = asyncio.ensure_future(self._wait_ready(new))
        timer = self._clock.call_later(SETTLE_S, lambda: _cancel(ready))
        try:
            await asyncio.wait({ready})
        finally:
            timer.cancel()
            ready.cancel()

    async def _wait_ready(self, new: Sequence[Running]) -> None:
        """Wait until each new backend has ready what the old one has."""
        for running in new:
            await running.stage.wait_ready(frozenset(self._ready(running.kind)))

    def _ready(self, kind: str) -> Iterable[EndpointId]:
        return (e.id for e in self._endpoints(kind) if e.is_ready)

    def _endpoints(self, kind: str) -> list[Endpoint]:
        return [e for e in self._catalog.endpoints() if e.backend_kind == kind]

    def apply(self, change: Change, *, drain_s: float) -> list[str]:
        """Swap what was prepared into the catalog, and return the kinds that changed.

        Replaced backends stop when their calls have ended, or after `drain_s` seconds.
        """
        for running in change.new:
            old, endpoints = self._running.get(running.kind), self._endpoints(running.kind)
            if old is not None:
                old.stage.close()
            self._running[running.kind] = running
            self._go_live(running)
            if old is not None:
                self._retire(old, endpoints, drain_s)
        for kind in change.gone:
            old, endpoints = self._running.pop(kind), self._endpoints(kind)
            old.stage.close()
            self._catalog.withdraw(kind)
            self._retire(old, endpoints, drain_s)
        return sorted([*(running.kind for running in change.new), *change.gone])

    def _retire(self, old: Running, endpoints: Sequence[Endpoint], drain_s: float) -> None:
        task = asyncio.create_task(self._stop_idle(old, endpoints, drain_s))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _stop_idle(self, old: Running, endpoints: Sequence[Endpoint], drain_s: float) -> None:
        end_s = self._clock.monotonic() + drain_s
        try:
            while self._clock.monotonic() < end_s:
                # One look's time too for calls that have chosen it and not begun.
                await self._clock.sleep(LOOK_S)
                if not any(endpoint.attempt_count for endpoint in endpoints):
                    break
        finally:
            await old.backend.stop()
            _log.info("backend_replaced", extra={"kind": old.kind})

    async def stop(self) -> None:
        """Stop all, replaced ones too; safe to repeat."""
        retiring = list(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await _stop_all(self._running.values())


async def _start_all(backends: Iterable[Running]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for running in backends:
                group.create_task(running.backend.start(running.stage.publish))
    except BaseExceptionGroup as errors:
        startup, other = errors.split(StartupError)
        if other is not None or startup is None:
            raise
        raise StartupError("\n".join(str(exc) for exc in startup.exceptions)) from errors


async def _stop_all(backends: Iterable[Running]) -> None:
    await asyncio.gather(*(running.backend.stop() for running in backends))


def _cancel(task: asyncio.Future[None]) -> None:
    task.cancel()
