"""The service's limit on requests, held by all processes of one client id together."""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_globus.settings import RateSettings

_CONTENDED_S: Final = 0.005
"""Wait where another process holds the file, in seconds; it holds it for microseconds."""


class RateLimit:
    """Lets through at most `requests` in any `period_s` seconds.

    A file holds the times of the last ones, under a lock, so no process knows more than another.
    A token bucket would let twice as many through in the first period: a full bucket, and what
    drips in meanwhile.

    Args:
        settings: The limit.
        client_id: Whose limit it is.
        clock: The time; all processes of a machine share its epoch.
    """

    def __init__(self, settings: RateSettings, *, client_id: str, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._path = Path(settings.file) if settings.file else _default_path(client_id)
        self._format = struct.Struct(f"<{settings.requests}d")

    async def take(self) -> None:
        """Wait until a request may go, and count it."""
        while True:
            wait_s = self._try_take()
            if wait_s <= 0:
                return
            await self._clock.sleep(wait_s)

    def _try_take(self) -> float:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        file = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._count(file)
        except BlockingIOError:
            return _CONTENDED_S
        finally:
            os.close(file)  # drops the lock

    def _count(self, file: int) -> float:
        now_s = self._clock.time()
        times = self._read(file)
        if max(times) > now_s:  # the clock was set back; they would block until it catches up
            times = tuple(min(at_s, now_s) for at_s in times)
            os.pwrite(file, self._format.pack(*times), 0)
        wait_s = times[0] + self._settings.period_s - now_s
        if wait_s > 0:
            return wait_s
        os.pwrite(file, self._format.pack(*times[1:], now_s), 0)
        return 0.0

    def _read(self, file: int) -> tuple[float, ...]:
        data = os.pread(file, self._format.size, 0)
        if len(data) != self._format.size:
            return (0.0,) * self._settings.requests
        return self._format.unpack(data)


def _default_path(client_id: str) -> Path:
    name = hashlib.sha256(client_id.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"first-globus-rate-{os.getuid()}-{name}"
