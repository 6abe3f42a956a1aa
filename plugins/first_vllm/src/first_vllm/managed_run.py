"""One run of a managed server: its process, and the look at what it serves."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import socket
from typing import TYPE_CHECKING, TypeAlias

from first_core.errors import SettingsError
from first_core.types import EndpointState
from first_vllm.managed_process import GuardedProcess, LogRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock
    from first_vllm.backend import Server
    from first_vllm.managed_settings import ManagedSettings

MakeServer: TypeAlias = "Callable[[int, Callable[[], None]], Server]"
"""Returns what follows the server on a port, and calls back after each look."""

_log = logging.getLogger(__name__)


class Run:
    """One process with what follows its server. Whoever makes one calls `stop`.

    Args:
        settings: Of the server.
        port: Where it shall listen.
        clock: The time.
        make_server: Makes what follows it.
        stirred: Called when anything here may have changed.
    """

    def __init__(
        self,
        settings: ManagedSettings,
        port: int,
        *,
        clock: Clock,
        make_server: MakeServer,
        stirred: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._port = port
        self._clock = clock
        self._stirred = stirred
        self.server = make_server(port, stirred)
        """What follows it."""
        self.ring = LogRing(settings.log_lines, settings.secrets(), self._tell)
        """The last lines of its output."""
        self._process: GuardedProcess | None = None
        self._follower: asyncio.Task[None] | None = None

    def _tell(self, line: str) -> None:
        _log.debug("managed server says", extra={"model": self._settings.model, "line": line})

    async def start(self) -> None:
        """Start the process, and begin to look at it.

        Raises:
            OSError: No process can be started.
        """
        settings = self._settings
        await self.server.upstream.start()
        self._process = await GuardedProcess.start(
            settings.argv(self._port),
            environ=settings.environ(self._port),
            ring=self.ring,
            clock=self._clock,
            stop_grace_s=settings.stop_grace_s,
        )
        self._process.when_ended(self._stirred)
        self._follower = asyncio.create_task(self.server.follow())

    @property
    def is_over(self) -> bool:
        """Whether the process has ended."""
        return self._process is None or self._process.has_ended

    def why(self) -> str:
        """Return in a few words how it ended."""
        return self._process.why() if self._process is not None else "it was not started"

    def models(self) -> list[str]:
        """Return the models that it serves now; none while it is not ready."""
        reports = self.server.reports()
        return [report.id.model for report in reports if report.state is EndpointState.READY]

    async def stop(self) -> None:
        """End the process and all that looks at it; safe to repeat."""
        try:
            if self._follower is not None:
                self._follower.cancel()
                await asyncio.wait({self._follower})
            await self.server.upstream.stop()
        finally:
            if self._process is not None:
                await self._process.stop()


def choose_port(wanted: int | None) -> int:
    """Return a port that is free now.

    Raises:
        OSError: The one that is wanted is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of the last run that linger do not matter, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
            probe.listen(1)
        except OSError as exc:
            taken = exc.errno == errno.EADDRINUSE
            why = "is taken by another process" if taken else f"cannot be used: {exc.strerror}"
            raise OSError(exc.errno, f"port {wanted} {why}") from exc
        port: int = probe.getsockname()[1]
        return port


def check_command(settings: ManagedSettings) -> None:
    """Refuse a command that this machine does not have.

    Raises:
        SettingsError: There is no such program.
    """
    program = settings.argv(settings.port or 0)[0]
    if shutil.which(program, path=settings.environ(0).get("PATH")) is None:
        raise SettingsError(
            f"vllm.managed: there is no program {program!r} to serve the model "
            f"{settings.model!r}; install it, or name another `command`"
        )
