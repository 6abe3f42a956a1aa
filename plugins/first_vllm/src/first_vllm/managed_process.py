"""The process of a managed server, under its guard, with the last lines that it wrote."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from first_vllm import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from first_core.clock import Clock

MAX_LINE_BYTES: Final = 4096
"""A longer line is cut: progress bars write one line without end."""

GUARD_GRACE_S: Final = 10.0
"""How much longer than the command's own grace its guard may take, in seconds. Only processes that
the kernel cannot end, such as those that hang in a driver, need it; then the guard is left alone
with them."""

LAST_WORDS_S: Final = 1.0
"""Longest wait for the end of the output after the end of the process, in seconds."""

MAX_REASON_LENGTH: Final = 200
"""Most characters of a line of the log in a reason."""

_FOLDERS: Final = re.compile(r"(?<![\w./])(?:/[\w.@+~-]+)+/(?=[\w.@+~-])")

_log = logging.getLogger(__name__)


class LogRing:
    """The last lines of an output, with secrets hidden.

    Args:
        lines: How many are kept.
        secrets: What is hidden.
        told: Called with each line.
    """

    def __init__(
        self, lines: int, secrets: Sequence[str], told: Callable[[str], None] = lambda _: None
    ) -> None:
        self._kept: deque[str] = deque(maxlen=lines)
        self._secrets = [secret for secret in secrets if secret]
        self._told = told
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the output; a carriage return ends a line too."""
        *whole, self._rest = re.split(rb"[\r\n]", self._rest + data)
        if len(self._rest) > MAX_LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        for line in whole:
            self._keep(line)

    def close(self) -> None:
        """Take what stands without an end of line as the last line."""
        self._keep(self._rest)
        self._rest = b""

    def _keep(self, data: bytes) -> None:
        line = data[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip()
        if not line:
            return
        for secret in self._secrets:
            line = line.replace(secret, "***")
        self._kept.append(line)
        self._told(line)

    def lines(self) -> list[str]:
        """Return the lines, the oldest first."""
        return list(self._kept)

    def last_words(self) -> str:
        """Return the last line for a person who may not see where files are; may be empty."""
        if not self._kept:
            return ""
        line = "".join(c for c in self._kept[-1] if c.isprintable())
        return _FOLDERS.sub("…/", line)[:MAX_REASON_LENGTH]


class GuardedProcess:
    """One command under its guard. Whoever makes one calls `stop`, whatever happens.

    Args:
        process: The guard.
        ring: Takes the output.
        clock: The time.
        stop_grace_s: What the guard was told.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, ring: LogRing, clock: Clock, stop_grace_s: float
    ) -> None:
        self._process = process
        self._clock = clock
        self._stop_grace_s = stop_grace_s
        self.ring = ring
        """The last lines of its output."""
        self._ended = asyncio.create_task(self._watch())

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        ring: LogRing,
        clock: Clock,
        stop_grace_s: float,
    ) -> GuardedProcess:
        """Start `command` with exactly the variables `environ`.

        Raises:
            OSError: The machine has no room for another process.
        """
        # Isolated and without site packages: it starts at once, and PYTHON… variables are meant
        # for the command. The same as `python -m first_vllm.guard`, wherever that is installed.
        own = [sys.executable, "-I", "-S", guard.__file__, f"{stop_grace_s:g}"]
        process = await asyncio.create_subprocess_exec(
            *own,
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            env=dict(environ),
            start_new_session=True,  # Ctrl-C at the terminal is for the gateway
        )
        return cls(process, ring, clock, stop_grace_s)

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self._ended.done()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call `callback` when it is over."""
        self._ended.add_done_callback(lambda _: callback())

    async def _watch(self) -> None:
        reading = asyncio.create_task(self._read())
        try:
            await self._process.wait()
            # Its last words are there already, unless somebody who escaped the guard still writes.
            timer = self._clock.call_later(LAST_WORDS_S, lambda: _drop(reading))
            await asyncio.wait({reading})
            timer.cancel()
        finally:
            reading.cancel()
            self.ring.close()

    async def _read(self) -> None:
        output = self._process.stdout
        while output is not None and (data := await output.read(65536)):
            self.ring.feed(data)

    def why(self) -> str:
        """Return in a few words how it ended."""
        code, words = self._process.returncode or 0, self.ring.last_words()
        if code == guard.NOT_FOUND:
            return words or "the command was not found"
        how = f"it was killed by {_name(code - 128)}" if code > 128 else f"it exited with {code}"  # noqa: PLR2004 - as the guard tells it
        return f"{how}: {words}" if words else how

    async def stop(self) -> None:
        """End it and wait until nothing of it is left, also when cancelled; safe to repeat."""
        if self._process.stdin is not None:
            self._process.stdin.close()  # what the guard waits for
        longest_s = self._stop_grace_s + GUARD_GRACE_S
        timer = self._clock.call_later(longest_s, self._give_up)
        cancelled: asyncio.CancelledError | None = None
        while not self._ended.done():
            try:
                await asyncio.wait({self._ended})
            except asyncio.CancelledError as exc:  # the wait has its bound; haste leaves remains
                cancelled = exc
        timer.cancel()
        if cancelled is not None:
            raise cancelled

    def _give_up(self) -> None:
        _log.error("managed server does not end", extra={"pid": self._process.pid})
        with suppress(ProcessLookupError):
            self._process.kill()


def _drop(task: asyncio.Task[None]) -> None:
    task.cancel()


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
