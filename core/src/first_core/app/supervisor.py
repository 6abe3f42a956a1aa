"""Starts workers, watches them, starts anew what dies, and ends with all of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from first_core.settings import environment
from first_core.telemetry.metrics import WORKERS_VARIABLE, forget_worker

if TYPE_CHECKING:
    from asyncio.subprocess import Process as Child
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from first_core.app.shared_counts import SharedCounts
    from first_core.clock import Clock

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
"""A worker that dies is started anew after a pause, which doubles up to this."""

HEALTHY_S: Final = 60.0
"""A worker that lived this long begins with the first pause again."""

_log = logging.getLogger(__name__)


class Supervisor:
    """Runs `count` workers.

    Args:
        command: Returns the arguments of `python` for a worker, by number.
        count: How many.
        metrics_folder: Where they count for Prometheus.
        counts: Of calls in flight.
        clock: The time.
        tell: Takes what a person should know.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        count: int,
        *,
        metrics_folder: Path,
        counts: SharedCounts,
        clock: Clock,
        tell: Callable[[str], None],
    ) -> None:
        self._command = command
        self._count = count
        self._metrics_folder = metrics_folder
        self._counts = counts
        self._clock = clock
        self._tell = tell
        self._children: dict[int, Child] = {}
        self._ended = asyncio.Event()
        self._signal_count = 0
        self._failed_code = 0

    async def run(self, started: Callable[[list[str]], None]) -> int:
        """Start all, call `started` with their addresses, and return the exit code at the end.

        SIGTERM and SIGINT go to all workers as SIGTERM, and so does a second one; a third kills.
        SIGHUP goes to all too.
        """
        addresses: list[asyncio.Future[list[str]]] = [
            asyncio.get_running_loop().create_future() for _ in range(self._count)
        ]
        with self._on_signals():
            keepers = [
                asyncio.ensure_future(self._keep(number, addresses[number]))
                for number in range(self._count)
            ]
            everything = asyncio.gather(*keepers)
            up = asyncio.gather(*addresses)
            first: set[asyncio.Future[Any]] = {everything, up}
            try:
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
                if up.done() and not up.cancelled():
                    started(up.result()[0])
                await everything
            finally:
                up.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await up
                await self._kill_all(keepers)
        return self._failed_code

    async def _kill_all(self, keepers: Sequence[asyncio.Task[None]]) -> None:
        for keeper in keepers:
            keeper.cancel()
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        await asyncio.gather(*keepers, return_exceptions=True)

    @contextlib.contextmanager
    def _on_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._send_all(signal.SIGHUP))
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self._ended.set()
        self._signal_count += 1
        self._send_all(signal.SIGTERM if self._signal_count <= 2 else signal.SIGKILL)  # noqa: PLR2004

    def _send_all(self, number: signal.Signals) -> None:
        for child in self._children.values():
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)

    async def _keep(self, number: int, addresses: asyncio.Future[list[str]]) -> None:
        """Keep one worker running until the end."""
        pause_s = FIRST_PAUSE_S
        while not self._ended.is_set():
            began_s = self._clock.monotonic()
            code = await self._run_one(number, addresses)
            if self._ended.is_set():
                return
            if not addresses.done():
                # What stops the first start stops every one: settings, or a taken address.
                self._failed_code = code or 1
                self._end()
                return
            if self._clock.monotonic() - began_s >= HEALTHY_S:
                pause_s = FIRST_PAUSE_S
            self._tell(f"worker {number} ended with {code}; a new one starts in {pause_s:g} s")
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _pause(self, pause_s: float) -> None:
        timer = asyncio.ensure_future(self._clock.sleep(pause_s))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({timer, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            timer.cancel()
            ended.cancel()

    async def _run_one(self, number: int, addresses: asyncio.Future[list[str]]) -> int:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *self._command(number),
            # The pipe breaks when this process dies, however it does; workers end then.
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**environment(["*"]), WORKERS_VARIABLE: str(self._metrics_folder)},
            start_new_session=True,  # Ctrl-C at a terminal reaches this process alone
        )
        self._children[number] = child
        try:
            if self._ended.is_set():
                child.terminate()
            line = await child.stdout.readline() if child.stdout else b""
            if line and not addresses.done():
                addresses.set_result(json.loads(line))
            if line:
                self._tell(f"worker {number} runs as process {child.pid}")
            return await child.wait()
        finally:
            del self._children[number]
            self._counts.forget(number)
            forget_worker(self._metrics_folder, child.pid)
