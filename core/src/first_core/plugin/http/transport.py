"""What carries requests to one upstream, and the errors that any such carrier raises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from first_core.plugin.watchdog import Watch
    from first_core.types import Timeouts

MAX_HEAD_BYTES: Final = 64 * 1024
"""Largest head of an answer, trailers and chunk extensions likewise. nginx allows upstreams 4 to
64 KiB, aiohttp 8 KiB a line."""

RawHeaders: TypeAlias = "list[tuple[bytes, bytes]] | tuple[tuple[bytes, bytes], ...]"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready to be sent."""

    method: Literal["GET", "POST"]
    target: str
    """Path with a leading slash, below the host, percent-encoded where it must be."""
    headers: dict[str, str] = field(repr=False)
    """All headers, lower case, apart from `host` and `content-length`, which the carrier adds."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer."""

    status: int
    headers: RawHeaders = field(repr=False)

    def get(self, name: bytes) -> str:
        """Return the first header called `name`, lower case; empty where there is none."""
        for key, value in self.headers:
            if key.lower() == name:
                return value.decode("latin-1").strip()
        return ""


class Receiver(Protocol):
    """Takes one answer.

    All methods are called on the loop's thread; what they raise ends the exchange, closes its
    connection and reaches the caller of `exchange`.
    """

    def on_head(self, head: Head) -> None:
        """Take the final status and headers; called once, first."""

    def on_data(self, data: bytes) -> bool:
        """Take the next bytes of the body.

        Returns:
            Whether the reader is behind: then `drain` is awaited, and the upstream is not read
            until it returns.
        """

    async def drain(self) -> None:
        """Wait until the reader has caught up."""


class Carrier(ABC):
    """Carries requests to one upstream over connections that it keeps."""

    @abstractmethod
    async def start(self) -> None:
        """Make ready; no connection is opened yet. May follow `stop`.

        Raises:
            SettingsError: The settings name files that do not serve.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Close all connections; safe to repeat. Exchanges under way raise `DisconnectedError`."""

    @abstractmethod
    async def exchange(
        self, request: Request, receiver: Receiver, *, watch: Watch, timeouts: Timeouts
    ) -> None:
        """Send `request` and hand the answer to `receiver`; returns when it has ended.

        Repeats the request once where a kept connection turns out to be closed before a byte of
        an answer came. Cancelling closes the connection, so that the upstream sees it.

        Args:
            request: What to send.
            receiver: Takes the answer.
            watch: Told when connecting begins, and when waiting for the answer begins.
            timeouts: Spans for these two phases.

        Raises:
            ConnectError: No connection; nothing was sent.
            DisconnectedError: The connection ended before the answer did.
            MalformedError: What came is not HTTP, or exceeds `MAX_HEAD_BYTES`.
        """


class CarrierError(Exception):
    """Root of what goes wrong between us and an upstream. Messages are for the log."""


REPLAY_WITHIN_S: Final = 1.0
"""A reused connection that ends without an answer this soon after a request, in seconds, was closed
while idle, and the news crossed the request on its way; so it is sent once more. One that ends
later had begun to work on it: that is the failure of an attempt."""


class ConnectError(CarrierError):
    """No connection came about; nothing was sent."""


class DisconnectedError(CarrierError):
    """The connection ended before the answer did.

    Args:
        message: For the log.
        head_seen: Whether status and headers had come.
    """

    def __init__(self, message: str, *, head_seen: bool) -> None:
        super().__init__(message)
        self.head_seen = head_seen


class MalformedError(CarrierError):
    """What came is not HTTP that we take."""
