"""Starts, watches and stops one server, and tells in which state it is."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, Final

from first_core.errors import BackendError, EndpointColdError
from first_core.plugin import EndpointReport
from first_core.types import EndpointId, EndpointState, Operation
from first_vllm.managed_run import Run, choose_port
from first_vllm.upstream import ProbeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock
    from first_core.plugin import Answer, Call, ChunkSink
    from first_vllm.backend import Server
    from first_vllm.managed_run import MakeServer
    from first_vllm.managed_settings import ManagedSettings

MAX_QUICK_FAILURES: Final = 5
"""Failures in a row after which each further start waits for the longest pause, and calls are no
longer told that the server is starting."""

_log = logging.getLogger(__name__)


class ManagedServer:
    """One server that the gateway runs itself.

    Args:
        settings: Of the server.
        clock: The time.
        make_server: Makes what follows a server on a port.
        changed: Called when `reports` may return something else than before.
    """

    def __init__(
        self,
        settings: ManagedSettings,
        *,
        clock: Clock,
        make_server: MakeServer,
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._make_server = make_server
        self._changed = changed
        self._stir = asyncio.Event()
        self._known = [_first_report(settings)]
        self._state = EndpointState.COLD
        self._reason = ""
        self._ready_in_s: float | None = None
        self._state_s = 0.0
        self._server: Server | None = None
        self._is_wanted = settings.start == "always"
        self._in_flight_count = 0
        self._last_used_s = 0.0
        self._failure_count = 0
        self._start_s: float | None = None
        self._wake_s: float | None = None

    def reports(self) -> list[EndpointReport]:
        """Return its endpoints: the model, and its adapters since they were seen."""
        if self._state is EndpointState.READY and self._server is not None:
            self._known = self._server.reports() or self._known
            return self._known
        return [
            replace(
                report,
                state=self._state,
                state_reason=self._reason,
                expected_wait_s=self._expected_wait_s(),
                load=None,
            )
            for report in self._known
        ]

    def _expected_wait_s(self) -> float | None:
        """Return whole seconds until it is ready, if it has been ready before."""
        if self._ready_in_s is None:
            return None
        is_starting = self._state is EndpointState.STARTING
        passed_s = self._clock.monotonic() - self._state_s if is_starting else 0.0
        return float(max(1, ceil(self._ready_in_s - passed_s)))

    def wake(self) -> None:
        """Start it if it is cold."""
        if self._state is EndpointState.COLD:
            self._is_wanted = True
            self._stir.set()

    async def call(self, call: Call) -> Answer:
        """Run one call; raises as `Backend.call`."""
        server = self._enter()
        try:
            return await server.call(call)
        finally:
            self._leave()

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink`; raises as `Backend.stream`."""
        server = self._enter()
        try:
            await server.stream(call, sink)
        finally:
            self._leave()

    def _enter(self) -> Server:
        if self._server is None:
            raise EndpointColdError(
                "the server of this model was just stopped; it starts again on demand",
                metadata={"model": self._settings.model},
            )
        self._in_flight_count += 1
        return self._server

    def _leave(self) -> None:
        self._in_flight_count -= 1
        self._last_used_s = self._clock.monotonic()
        if not self._in_flight_count:
            self._stir.set()

    async def run(self) -> None:
        """Run it as settings and calls demand, until cancelled; then nothing of it is left."""
        while True:
            await self._until(lambda: self._is_wanted)
            self._is_wanted = False
            failure = await self._run_once()
            if failure is None:
                self._failure_count = 0
                self._show_cold("")
            else:
                await self._rest(failure)

    async def _rest(self, failure: str) -> None:
        """Be down for a while after a failure."""
        settings = self._settings
        self._failure_count += 1
        pause_s = settings.restart_min_s * 2.0 ** min(self._failure_count - 1, 30)
        if self._is_hopeless:
            pause_s = settings.restart_max_s
        await self._clock.sleep(min(pause_s, settings.restart_max_s))
        if settings.start == "always":
            self._is_wanted = True
        else:
            self._show_cold(f"last time: {failure}")

    @property
    def _is_hopeless(self) -> bool:
        return self._failure_count >= MAX_QUICK_FAILURES

    async def _run_once(self) -> str | None:
        """Run it once; returns why it failed, `None` where it was stopped since nobody used it."""
        try:
            port = choose_port(self._settings.port)
        except OSError as exc:
            return self._failed(str(exc.strerror), [])
        if not self._is_hopeless:
            self._show(EndpointState.STARTING, ready_in_s=self._start_s)
        run = Run(
            self._settings,
            port,
            clock=self._clock,
            make_server=self._make_server,
            stirred=self._stirred,
        )
        try:
            await run.start()
            failure = await self._serve(run)
            return failure and self._failed(failure, run.ring.lines())
        except OSError as exc:
            return self._failed(f"no process can be started: {exc.strerror}", [])
        finally:
            self._server = None
            await run.stop()

    def _failed(self, reason: str, lines: list[str]) -> str:
        extra = {"model": self._settings.model, "reason": reason, "lines": lines}
        _log.error("managed server failed", extra=extra)
        self._show(EndpointState.DOWN, reason)
        return reason

    async def _serve(self, run: Run) -> str | None:
        """Serve until it fails, returning why, or until nobody uses it."""
        failure = await self._wait_ready(run)
        if failure is not None:
            return failure
        ready_s = self._clock.monotonic()
        while True:
            self._open(run)
            if not await self._wait_idle(run):
                if self._clock.monotonic() - ready_s >= self._settings.restart_max_s:
                    self._failure_count = 0
                return run.why()
            self._show(EndpointState.DRAINING, "nobody uses it")
            await self._until(lambda: run.is_over or not self._in_flight_count)
            self._server = None
            if not (self._settings.sleep and await self._sleep(run)):
                return None

    async def _wait_ready(self, run: Run) -> str | None:
        """Wait until it serves the model; returns why it does not."""
        settings, began_s = self._settings, self._clock.monotonic()
        if not await self._until(
            lambda: run.is_over or bool(run.models()), timeout_s=settings.start_timeout_s
        ):
            return f"it was not ready after {settings.start_timeout_s:g} s"
        models = run.models()
        if not models:
            return run.why()
        if settings.model not in models:
            return f"it serves {', '.join(models[:3])} and not {settings.model}"
        self._start_s = _learn(self._start_s, self._clock.monotonic() - began_s)
        return None

    def _open(self, run: Run) -> None:
        self._server = run.server
        self._last_used_s = self._clock.monotonic()
        self._show(EndpointState.READY)

    async def _wait_idle(self, run: Run) -> bool:
        """Wait until nobody has used it for the time set; `False`: it ended before that."""
        while not run.is_over:
            left_s = self._idle_left_s()
            if left_s is not None and left_s <= 0:
                return True
            await self._until(lambda: run.is_over, timeout_s=left_s)
        return False

    def _idle_left_s(self) -> float | None:
        idle_stop_s = self._settings.idle_stop_s
        if idle_stop_s is None or self._in_flight_count:
            return idle_stop_s  # looked at again after that, so that calls need no timer
        return self._last_used_s + idle_stop_s - self._clock.monotonic()

    async def _sleep(self, run: Run) -> bool:
        """Put it to sleep until it is wanted; `False`: it must be stopped instead."""
        if run.is_over or not await self._fall_asleep(run):
            return False
        self._show(EndpointState.COLD, "asleep", ready_in_s=self._wake_s)
        await self._until(lambda: run.is_over or self._is_wanted)
        if run.is_over:
            return False
        self._is_wanted = False
        self._show(EndpointState.STARTING, "waking up", ready_in_s=self._wake_s)
        began_s = self._clock.monotonic()
        try:
            await run.server.upstream.wake_up()
        except (BackendError, ProbeError) as exc:
            self._warn("managed server does not wake up", str(exc))
            self._is_wanted = True
            return False
        self._wake_s = _learn(self._wake_s, self._clock.monotonic() - began_s)
        return True

    async def _fall_asleep(self, run: Run) -> bool:
        try:
            if await run.server.upstream.sleep():
                return True
            reason = "it does not offer that"
        except (BackendError, ProbeError) as exc:
            reason = str(exc)
        self._warn("managed server cannot sleep and is stopped", reason)
        return False

    def _warn(self, event: str, reason: str) -> None:
        _log.warning(event, extra={"model": self._settings.model, "reason": reason})

    def _show_cold(self, reason: str) -> None:
        self._show(EndpointState.COLD, reason, ready_in_s=self._start_s)

    def _show(
        self, state: EndpointState, reason: str = "", *, ready_in_s: float | None = None
    ) -> None:
        if (state, reason) == (self._state, self._reason):
            return
        self._state, self._reason, self._ready_in_s = state, reason, ready_in_s
        self._state_s = self._clock.monotonic()
        extra = {"model": self._settings.model, "state": state.name.lower(), "reason": reason}
        _log.info("managed server changed its state", extra=extra)
        self._changed()

    def _stirred(self) -> None:
        self._stir.set()
        self._changed()

    async def _until(
        self, condition: Callable[[], bool], *, timeout_s: float | None = None
    ) -> bool:
        """Wait until `condition` holds; `False`: the time passed before."""
        end_s = None if timeout_s is None else self._clock.monotonic() + timeout_s
        while not condition():
            if end_s is not None and self._clock.monotonic() >= end_s:
                return False
            self._stir.clear()
            timer = None
            if end_s is not None:
                timer = self._clock.call_later(end_s - self._clock.monotonic(), self._stir.set)
            try:
                await self._stir.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        return True


def _first_report(settings: ManagedSettings) -> EndpointReport:
    """Return what is known of the model before it ran."""
    return EndpointReport(
        id=EndpointId(settings.cluster, settings.framework, settings.model, settings.name),
        served_model=settings.model,
        operations=frozenset(settings.operations or Operation),
        state=EndpointState.COLD,
        continues_messages=settings.continues_messages,
    )


def _learn(known_s: float | None, newest_s: float) -> float:
    """Return the expected time: half of it is the newest, since machines and models change."""
    return newest_s if known_s is None else (known_s + newest_s) / 2
