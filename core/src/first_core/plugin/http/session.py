"""Carrier on aiohttp's client, for upstreams behind a proxy. The only user of aiohttp here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from first_core.errors import InvalidRequestError
from first_core.plugin.http.tls import client_context
from first_core.plugin.http.transport import (
    MAX_HEAD_BYTES,
    REPLAY_WITHIN_S,
    Carrier,
    ConnectError,
    DisconnectedError,
    Head,
    MalformedError,
)

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.plugin.http.settings import UpstreamSettings
    from first_core.plugin.http.transport import CarrierError, Receiver, Request
    from first_core.plugin.watchdog import Watch
    from first_core.types import Timeouts

_DNS_TTL_S: Final = 10
"""How long an address is believed, in seconds; aiohttp's own default."""

_LARGE_BODY_BYTES: Final = 512 * 1024
"""From here on a body goes out in pieces; aiohttp warns of 1 MiB at once."""


class _Trace:
    """What aiohttp tells about one request while it is under way."""

    __slots__ = ("reused", "timeouts", "watch")

    def __init__(self, watch: Watch, timeouts: Timeouts) -> None:
        self.watch = watch
        self.timeouts = timeouts
        self.reused = False


async def _on_reused(_session: object, context: object, _params: object) -> None:
    _trace_of(context).reused = True


async def _on_sent(_session: object, context: object, _params: object) -> None:
    trace = _trace_of(context)
    trace.watch.expect("first_chunk", trace.timeouts.first_chunk_s)


def _trace_of(context: object) -> _Trace:
    trace = getattr(context, "trace_request_ctx", None)
    if not isinstance(trace, _Trace):
        raise TypeError("a request without its trace")
    return trace


class SessionCarrier(Carrier):
    """Carries requests over an aiohttp session, about 190 µs each.

    Args:
        base_url: Of the upstream; only scheme, host and port matter.
        settings: Of the way there.
        clock: The time.
    """

    def __init__(self, base_url: str, settings: UpstreamSettings, clock: Clock) -> None:
        parts = urlsplit(base_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._settings = settings
        self._clock = clock
        shown = _proxy_headers(settings)
        is_tunnel = parts.scheme == "https"
        self._tunnel_headers = shown if is_tunnel else None
        self._forward_headers = {} if is_tunnel else shown
        self._session: aiohttp.ClientSession | None = None
        self._reading: set[aiohttp.ClientResponse] = set()

    async def start(self) -> None:
        """Make the session."""
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_on_reused)
        trace.on_request_headers_sent.append(_on_sent)
        keepalive_s = self._settings.keepalive_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                ttl_dns_cache=_DNS_TTL_S,
                keepalive_timeout=keepalive_s or None,
                force_close=not keepalive_s,
                ssl=client_context(self._settings),
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            trust_env=False,
            trace_configs=[trace],
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
        )

    async def stop(self) -> None:
        """Close the session and its connections."""
        session, self._session = self._session, None
        for response in self._reading:
            # Closing the session closes the connection, but wakes nobody who reads a body.
            response.content.set_exception(aiohttp.ClientConnectionError("stopped"))
        if session is not None:
            await session.close()

    async def exchange(
        self, request: Request, receiver: Receiver, *, watch: Watch, timeouts: Timeouts
    ) -> None:
        """Send `request` and hand the answer to `receiver`."""
        trace = _Trace(watch, timeouts)
        replay_until_s = self._clock.monotonic() + REPLAY_WITHIN_S
        try:
            await self._try(request, receiver, trace)
        except DisconnectedError as exc:
            if exc.head_seen or not trace.reused or self._clock.monotonic() > replay_until_s:
                raise
            await self._try(request, receiver, trace)

    async def _try(self, request: Request, receiver: Receiver, trace: _Trace) -> None:
        if self._session is None:
            raise DisconnectedError("stopped", head_seen=False)
        trace.reused = False
        trace.watch.expect("connect", trace.timeouts.connect_s)
        head: Head | None = None
        try:
            async with self._send(self._session, request, trace) as response:
                head = Head(response.status, response.raw_headers)
                receiver.on_head(head)
                await self._read(response, receiver)
        except (aiohttp.ClientError, ConnectionError) as exc:
            raise _mapped(exc, head_seen=head is not None) from exc
        except UnicodeEncodeError as exc:
            raise InvalidRequestError("a header holds what is not text") from exc

    async def _read(self, response: aiohttp.ClientResponse, receiver: Receiver) -> None:
        self._reading.add(response)
        try:
            async for data in response.content.iter_any():
                if receiver.on_data(data):
                    await receiver.drain()
        except BaseException:
            response.close()  # and not back into the pool: the upstream must see that we left
            raise
        finally:
            self._reading.discard(response)

    def _send(
        self, session: aiohttp.ClientSession, request: Request, trace: _Trace
    ) -> aiohttp.client._RequestContextManager:
        body = request.body
        return session.request(
            request.method,
            URL(self._origin + request.target, encoded=True),
            data=(io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body) or None,
            headers=request.headers | self._forward_headers,
            allow_redirects=False,
            proxy=self._settings.proxy,
            proxy_headers=self._tunnel_headers,
            trace_request_ctx=trace,
        )


def _proxy_headers(settings: UpstreamSettings) -> dict[str, str]:
    if settings.proxy_credential is None:
        return {}
    user, _, password = settings.proxy_credential.reveal().partition(":")
    return {"proxy-authorization": aiohttp.encode_basic_auth(user, password)}


def _mapped(error: Exception, *, head_seen: bool) -> CarrierError:
    text = type(error).__name__
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError)):
        return ConnectError(text)
    if isinstance(
        error,
        (
            aiohttp.ServerDisconnectedError,
            aiohttp.ClientOSError,
            aiohttp.ClientPayloadError,
            aiohttp.ClientConnectionError,
            ConnectionError,
        ),
    ):
        return DisconnectedError(text, head_seen=head_seen)
    return MalformedError(text)
