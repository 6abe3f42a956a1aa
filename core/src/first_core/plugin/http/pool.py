"""Carrier on connections of our own, about 20 µs for a request; see `connection.py`."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from first_core.errors import InvalidRequestError
from first_core.plugin.http.connection import Connection
from first_core.plugin.http.tls import client_context
from first_core.plugin.http.transport import (
    REPLAY_WITHIN_S,
    Carrier,
    ConnectError,
    DisconnectedError,
)

if TYPE_CHECKING:
    import ssl

    from first_core.clock import Clock, TimerHandle
    from first_core.plugin.http.settings import UpstreamSettings
    from first_core.plugin.http.transport import Receiver, Request
    from first_core.plugin.watchdog import Watch
    from first_core.types import Timeouts

MAX_CONNECTION_AGE_S: Final = 300.0
"""A connection older than this takes no further request, in seconds. Names are looked up for each
new connection, so this bounds how long a busy one may outlive a change in DNS."""

_MIN_SWEEP_S: Final = 0.5
"""Shortest time between two looks for connections that idled too long, in seconds."""


class PoolCarrier(Carrier):
    """Carries requests over connections that it keeps.

    Args:
        base_url: Of the upstream; only scheme, host and port matter.
        settings: Of the way there.
        clock: The time.
    """

    def __init__(self, base_url: str, settings: UpstreamSettings, clock: Clock) -> None:
        parts = urlsplit(base_url)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        self._host_header = parts.netloc
        self._settings = settings
        self._clock = clock
        self._tls: ssl.SSLContext | None = None
        self._is_stopped = True
        self._open: set[Connection] = set()
        self._idle: list[Connection] = []
        self._sweeper: TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Read the TLS files."""
        self._tls = client_context(self._settings) if self._is_tls else None
        self._is_stopped = False

    async def stop(self) -> None:
        """Close all connections, and wait until they are."""
        self._is_stopped = True
        self._idle = []
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in tuple(self._open):
            connection.fail(DisconnectedError("stopped", head_seen=False))
        while self._open:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    async def exchange(
        self, request: Request, receiver: Receiver, *, watch: Watch, timeouts: Timeouts
    ) -> None:
        """Send `request` and hand the answer to `receiver`."""
        head = self._head_of(request)
        connection = self._take()
        if connection is not None:
            watch.expect("first_chunk", timeouts.first_chunk_s)
            replay_until_s = self._clock.monotonic() + REPLAY_WITHIN_S
            try:
                await connection.exchange(head, request.body, receiver)
            except DisconnectedError:
                is_late = self._clock.monotonic() > replay_until_s
                if connection.answered or self._is_stopped or is_late:
                    raise
            else:
                self._keep(connection)
                return
        watch.expect("connect", timeouts.connect_s)
        connection = await self._connect()
        watch.expect("first_chunk", timeouts.first_chunk_s)
        await connection.exchange(head, request.body, receiver)
        self._keep(connection)

    def _head_of(self, request: Request) -> bytes:
        lines = [f"{request.method} {request.target} HTTP/1.1\r\nhost: {self._host_header}\r\n"]
        lines += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
        if request.method == "POST":
            lines.append(f"content-length: {len(request.body)}\r\n")
        lines.append("\r\n")
        try:
            return "".join(lines).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as exc:
            raise InvalidRequestError("a header holds what is not text") from exc

    def _take(self) -> Connection | None:
        """Return the connection that idled least, so that the others may time out."""
        now_s = self._clock.monotonic()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and connection.idle_until_s > now_s:
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        now_s = self._clock.monotonic()
        keep_s = self._settings.keepalive_s
        hint_s = connection.keep_alive_s()
        if hint_s is not None:
            keep_s = min(keep_s, hint_s - 1.0)  # 1 s for the request to get there
        if (
            keep_s <= 0
            or self._is_stopped
            or not connection.is_reusable
            or now_s - connection.opened_s > MAX_CONNECTION_AGE_S
        ):
            connection.close()
            return
        connection.idle_until_s = now_s + keep_s
        self._idle.append(connection)
        if self._sweeper is None:
            self._set_sweeper()

    async def _connect(self) -> Connection:
        # In an empty context, since callbacks of the connection keep it for all later calls.
        opening = asyncio.get_running_loop().create_task(
            self._open_connection(), context=contextvars.Context()
        )
        try:
            connection = await opening
        except asyncio.CancelledError:
            if opening.done() and not opening.cancelled() and opening.exception() is None:
                opening.result().close()  # both at once: nobody takes it over
            raise
        except OSError as exc:  # TLS and DNS errors among them
            raise ConnectError(type(exc).__name__) from exc
        if self._is_stopped:
            connection.close()
            raise ConnectError("stopped")
        return connection

    async def _open_connection(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._lost), self._host, self._port, ssl=self._tls
        )
        connection.opened_s = self._clock.monotonic()
        # Remembered no earlier: uvloop does not tell of the end of a connection whose opening is
        # cancelled after `connection_made`.
        if connection.is_open:
            self._open.add(connection)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        emptied = self._emptied
        if emptied is not None and not self._open and not emptied.done():
            emptied.set_result(None)

    def _set_sweeper(self) -> None:
        delay_s = max(self._settings.keepalive_s, _MIN_SWEEP_S)
        self._sweeper = self._clock.call_later(delay_s, self._sweep)

    def _sweep(self) -> None:
        now_s = self._clock.monotonic()
        kept = []
        for connection in self._idle:
            if connection.idle_until_s > now_s:
                kept.append(connection)
            else:
                connection.close()
        self._idle = kept
        self._sweeper = None
        if kept:
            self._set_sweeper()
