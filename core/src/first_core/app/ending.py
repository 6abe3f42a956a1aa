"""How a process ends: the first signal drains it, a second one ends what is left at once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Listener(Protocol):
    """What takes calls of clients: a front, the gRPC server, or a process with both."""

    @property
    def in_flight_count(self) -> int:
        """Calls in flight now."""

    async def drain(self) -> None:
        """Take no more calls, wait for those in flight, and end the rest after a bound."""

    def end_calls(self) -> None:
        """End all calls in flight with an error, now."""


class Ending:
    """Turns signals into the end of a process.

    Args:
        listener: Whose calls are counted, and ended by the second signal.
        drain_s: How long the drain takes at most, in seconds; only told.
        tell: Takes what a person should know.
    """

    def __init__(self, listener: Listener, drain_s: float, tell: Callable[[str], None]) -> None:
        self._listener = listener
        self._drain_s = drain_s
        self._tell = tell
        self.asked = asyncio.Event()
        """Set by the first signal."""

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen for SIGINT and SIGTERM; afterwards they do what they did before."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.ask)
        try:
            yield
        finally:
            self._forget()

    def _forget(self) -> None:
        for number in SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def ask(self) -> None:
        """Take one signal. From the third on they kill, as without a handler."""
        count = self._listener.in_flight_count
        if not self.asked.is_set():
            self.asked.set()
            if count:
                bound = f"up to {self._drain_s:g} s; again to stop now"
                self._tell(f"draining: {_calls(count)} in flight, {bound}")
            return
        self._tell(f"stopping now: {_calls(count)} ended")
        self._listener.end_calls()
        self._forget()


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"
