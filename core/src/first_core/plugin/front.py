"""What a front is: it listens for clients and hands their calls to the router."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.plugin.registers import PluginSettings
    from first_core.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class FrontContext:
    """What a front gets to work with."""

    channel: Any
    """Carrier to the router, with the call surface of a `grpc.aio.Channel`: in process or gRPC.
    `first_core.client.RouterClient` takes it."""
    telemetry: Telemetry
    """Metrics, traces and logs of this process."""
    clock: Clock
    """The time."""
    drain_s: float = 30.0
    """How long a stop waits for calls in flight, in seconds."""


class Front(ABC):
    """One listener for clients."""

    @abstractmethod
    async def start(self) -> list[str]:
        """Listen, and return the addresses as URLs for a person to open.

        Raises:
            StartupError: The address cannot be bound.
        """

    def configure(self, settings: PluginSettings) -> frozenset[str]:
        """Take new settings as far as that is possible while it listens.

        Returns:
            What was taken, as `section.field`; the rest needs a restart.
        """
        del settings
        return frozenset()

    @property
    def in_flight_count(self) -> int:
        """Calls in flight now."""
        return 0

    async def drain(self) -> None:  # noqa: B027 - a front without long calls has nothing to do
        """Take no more calls, wait for those in flight, and end the rest after a bound.

        It goes on to listen: whoever asks whether it is ready is told that it is not, and calls
        are refused with a time to come again. Safe to repeat.
        """

    def end_calls(self) -> None:  # noqa: B027 - as above
        """End all calls in flight with an error, now; `drain` returns then. Safe to repeat."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop listening and end what is in flight; safe to repeat."""
