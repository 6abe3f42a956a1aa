"""What a front is: it listens for clients and hands their calls to the router."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from first_core.clock import Clock
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


class Front(ABC):
    """One listener for clients."""

    @abstractmethod
    async def start(self) -> list[str]:
        """Listen, and return the addresses as URLs for a person to open.

        Raises:
            StartupError: The address cannot be bound.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Stop listening and cancel what is in flight; safe to repeat."""
