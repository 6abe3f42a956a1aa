"""The way to one peer: its catalog is watched, and calls go there."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from first_core.client import CHANNEL_OPTIONS
from first_core.peering.certificates import channel_credentials
from first_core.peering.failures import is_told_by_peer
from first_core.peering.offers import reports_of
from first_core.types import EndpointState
from first_proto.peer.v1 import peer_pb2, peer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock, TimerHandle
    from first_core.peering.settings import PeerSettings
    from first_core.plugin import EndpointReport
    from first_core.types import EndpointId

GRACE_S: Final = 2.0
"""How long endpoints stay as they were after the watch broke, in seconds: a connection that is back
at once should not empty the catalog. Calls that fail meanwhile go on elsewhere."""

FIRST_PAUSE_S: Final = 0.1
"""Mean pause before the watch is tried again, in seconds; it doubles up to `LONGEST_PAUSE_S`."""

LONGEST_PAUSE_S: Final = 3.0
"""A peer that is back is found within this and a second of gRPC's own, in seconds."""

_CONNECTION_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # bounds the attempt, TLS included, not the pause
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
]
"""A peer that is back is found soon, and one that fell silent is noticed within 30 s. Source: gRPC,
"Connection Backoff Protocol" and "Keepalive"."""

_log = logging.getLogger(__name__)


class PeerLink:
    """Follows one peer.

    Args:
        settings: Of the peer.
        own_name: Name of this gateway.
        hop_budget: Most gateways that a call may pass.
        clock: The time.
        changed: Called when `reports` returns something else than before.
        looked: Called when it is known what the peer offers, or that it does not answer.
    """

    def __init__(
        self,
        settings: PeerSettings,
        *,
        own_name: str,
        hop_budget: int,
        clock: Clock,
        changed: Callable[[], None],
        looked: Callable[[], None],
    ) -> None:
        self.name = settings.name
        self.has_looked = False
        """Whether the first look is over."""
        self._settings = settings
        self._own_name = own_name
        self._hop_budget = hop_budget
        self._clock = clock
        self._changed = changed
        self._looked = looked
        self._channel: aio.Channel | None = None
        self._follower: asyncio.Task[None] | None = None
        self._reports: list[EndpointReport] = []
        self._at_peer: dict[EndpointId, EndpointId] = {}
        self._down_reason = ""
        self._grace: TimerHandle | None = None
        self._pause_s = FIRST_PAUSE_S
        self.stub: Any = None
        """Calls the peer; `None` before `start` and after `stop`."""

    def start(self) -> None:
        """Begin to follow the peer.

        Raises:
            SettingsError: A file of certificates cannot be read.
        """
        options = [*CHANNEL_OPTIONS, *_CONNECTION_OPTIONS]
        credentials = channel_credentials(self._settings)
        if self._settings.server_name is not None:
            options.append(("grpc.ssl_target_name_override", self._settings.server_name))
        if credentials is None:
            self._channel = aio.insecure_channel(self._settings.target, options=options)
        else:
            self._channel = aio.secure_channel(self._settings.target, credentials, options=options)
        self.stub = peer_pb2_grpc.PeerServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._follower = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following and close the connection; calls in flight end. Safe to repeat."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower
        self._end_grace()
        channel, self._channel, self.stub = self._channel, None, None
        if channel is not None:
            await channel.close(None)

    def reports(self) -> list[EndpointReport]:
        """Return the endpoints behind the peer; none until it was reached for the first time."""
        if not self._down_reason:
            return self._reports
        return [
            replace(
                report,
                state=EndpointState.DOWN,
                state_reason=self._down_reason,
                load=None,
                expected_wait_s=None,
            )
            for report in self._reports
        ]

    def at_peer(self, endpoint: EndpointId) -> EndpointId | None:
        """Return what the peer calls an endpoint; `None`: it no longer offers it."""
        return self._at_peer.get(endpoint)

    async def _follow(self) -> None:
        """Watch again and again until cancelled."""
        while True:
            try:
                await self._watch()
                self._set_down("the peer is stopping")
            except aio.AioRpcError as exc:
                self._broken(exc)
            except Exception:  # an edge: a loop that must not end
                _log.exception("peer_watch_failed", extra={"peer": self.name})
                self._set_down("the peer cannot be understood")
            self._seen()
            await self._clock.sleep(self._pause_s * random.uniform(0.5, 1.5))  # noqa: S311 - spread
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)

    async def _watch(self) -> None:
        call = self.stub.WatchCatalog(peer_pb2.WatchCatalogRequest(gateway=self._own_name))
        try:
            while (message := await call.read()) is not EOF:
                self._take(message)
        finally:
            call.cancel()  # no effect on a call that has ended

    def _take(self, message: peer_pb2.WatchCatalogResponse) -> None:
        if message.gateway != self.name:
            # Lists of hops are made of these names, so that a wrong one would hide loops.
            self._set_down(f"the peer's name is {message.gateway!r}, not {self.name!r}")
            return
        if self._down_reason or not self.has_looked:
            _log.info("peer_reached", extra={"peer": self.name, "offer_count": len(message.offers)})
        self._end_grace()
        self._pause_s = FIRST_PAUSE_S
        self._down_reason = ""
        found = list(reports_of(self.name, self._own_name, self._hop_budget, message.offers))
        self._reports = [report for report, _ in found]
        self._at_peer = {report.id: at_peer for report, at_peer in found}
        self._changed()
        self._seen()

    def _seen(self) -> None:
        self.has_looked = True
        self._looked()

    def _broken(self, failure: aio.AioRpcError) -> None:
        if failure.code() is grpc.StatusCode.PERMISSION_DENIED:
            self._set_down("the peer does not accept this gateway")
        elif is_told_by_peer(failure):
            self._set_down("the peer is stopping")
        elif self._reports and self._grace is None and not self._down_reason:
            self._grace = self._clock.call_later(
                GRACE_S, lambda: self._set_down("the peer cannot be reached")
            )
        elif not self._reports:
            self._set_down("the peer cannot be reached")

    def _set_down(self, reason: str) -> None:
        self._end_grace()
        if reason != self._down_reason:
            _log.warning("peer_down", extra={"peer": self.name, "reason": reason})
            self._down_reason = reason
            self._changed()

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
