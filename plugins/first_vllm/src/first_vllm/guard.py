"""Runs one command and leaves nothing of it behind when its owner goes.

    python guard.py GRACE_S COMMAND [ARGUMENT…]

Standard input is a pipe that the owner holds open. When it closes, because the owner wants the
command to end or because the owner itself has died, however it died, the command's process group
gets SIGTERM and, after GRACE_S seconds, SIGKILL. The guard ends when all of them are gone, with the
command's exit code, or 128 plus the number of the signal that killed it.

Standard library only, and little of it: one guard runs beside each server, and starts in the time
that the interpreter takes. Time is told by the kernel's interval timer.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

NOT_FOUND: Final = 127
"""Exit code for a command that cannot be run, as shells have it."""

_STDIN: Final = 0
_STDERR: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guard:
    """Watches one command until it and all that it started are gone.

    Args:
        child: Process id of the command, which leads a group of its own.
        grace_s: Seconds from SIGTERM to SIGKILL.
    """

    def __init__(self, child: int, grace_s: float) -> None:
        self._child = child
        self._grace_s = grace_s
        self._exit_code: int | None = None
        self._is_ending = False
        self._is_killing = False

    def watch(self, signals: int) -> int:
        """Return the command's exit code when nothing of it is left.

        Args:
            signals: Where the interpreter writes the numbers of the signals that arrive.
        """
        sources = [_STDIN, signals]
        while self._reap():
            ready, _, _ = select.select(sources, [], [])
            if _STDIN in ready and not _read(_STDIN):
                sources.remove(_STDIN)
                self._end()
            if signals in ready:
                self._take(os.read(signals, 4096))
        self._signal_group(signal.SIGKILL)  # where orphans do not come to us
        return self._exit_code or 0

    def _take(self, numbers: bytes) -> None:
        if signal.SIGALRM in numbers:
            self._kill()
        if any(number in numbers for number in _ENDING):
            self._end()

    def _end(self) -> None:
        if not self._is_ending:
            self._is_ending = True
            signal.setitimer(signal.ITIMER_REAL, max(self._grace_s, 0.001))
            self._signal_group(signal.SIGTERM)

    def _kill(self) -> None:
        self._is_killing = True
        self._signal_group(signal.SIGKILL)
        for pid in _children():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def _signal_group(self, number: int) -> None:
        with suppress(OSError):
            os.killpg(self._child, number)

    def _reap(self) -> bool:
        """Collect who has ended; `False` when nobody is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._child:
                code = os.waitstatus_to_exitcode(status)
                self._exit_code = code if code >= 0 else 128 - code
            # Without the command nobody needs the rest; at its end they have their grace.
            if self._is_killing or (pid == self._child and not self._is_ending):
                self._kill()


def _read(source: int) -> bytes:
    try:
        return os.read(source, 4096)
    except OSError:  # the owner was killed with something unread
        return b""


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(pid) for pid in text.split()]


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with suppress(Exception):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _run(command: list[str], guard: int) -> None:
    """Become the command; in the child, never returns."""
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:  # it died before that was set
        os._exit(NOT_FOUND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), _STDIN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as exc:
        os.write(_STDERR, f"{command[0]}: {exc.strerror}\n".encode(errors="replace"))
    finally:
        os._exit(NOT_FOUND)


def main(arguments: list[str]) -> int:
    """Run the guard; returns its exit code."""
    grace_s, command = float(arguments[0]), arguments[1:]
    signals, numbers = os.pipe()
    os.set_blocking(numbers, False)
    for number in (signal.SIGCHLD, signal.SIGALRM, *_ENDING):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(numbers, warn_on_full_buffer=False)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _run(command, guard)
    return Guard(child, grace_s).watch(signals)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
