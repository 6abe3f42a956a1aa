"""The client towards one upstream."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from first_core.errors import BackendUnavailableError, OverloadedError
from first_core.plugin.backend import Answer
from first_core.plugin.http import errors
from first_core.plugin.http.bodies import NoJsonError, embedded_error, status_of
from first_core.plugin.http.headers import merge
from first_core.plugin.http.pool import PoolCarrier
from first_core.plugin.http.receivers import ErrorBodyCutError, StreamedAnswer, WholeAnswer
from first_core.plugin.http.settings import check_url
from first_core.plugin.http.transport import CarrierError, Head, Request
from first_core.plugin.watchdog import Watchdog
from first_core.types import Operation, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from first_core.clock import Clock
    from first_core.errors import FirstError
    from first_core.plugin.backend import Call, ChunkSink
    from first_core.plugin.http.settings import UpstreamSettings
    from first_core.plugin.http.transport import Carrier
    from first_core.plugin.registers import BackendContext
    from first_core.plugin.watchdog import Watch

MakeCarrier: TypeAlias = "Callable[[str, UpstreamSettings, Clock], Carrier]"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    """What an upstream answered to `HttpUpstream.get`."""

    status: int
    """HTTP status."""
    headers: Mapping[str, str] = field(repr=False)
    """Headers, lower case; of a repeated one the last."""
    body: bytes = field(repr=False)
    """The body."""


class HttpUpstream:
    """Sends calls to one upstream over connections that it keeps, and maps what goes wrong.

    Follows no redirect, keeps no cookie, reads no proxy from the environment, and sends no header
    that neither the call nor the backend names. Not safe across threads.

    Args:
        base_url: `http` or `https` URL below which the paths of calls lie.
        settings: Of the way there.
        context: What the backend got.
        watchdog: Shared with other upstreams; by default one of its own.
        make_carrier: Makes what carries the requests; by default a pool of own connections, and
            aiohttp's client where there is a proxy.

    Raises:
        ValueError: `base_url` is no such URL.
    """

    def __init__(
        self,
        base_url: str,
        *,
        settings: UpstreamSettings,
        context: BackendContext,
        watchdog: Watchdog | None = None,
        make_carrier: MakeCarrier | None = None,
    ) -> None:
        self._base_url = check_url(base_url)
        self._prefix = urlsplit(self._base_url).path
        self._settings = settings
        self._clock = context.clock
        self._watchdog = watchdog or Watchdog(context.clock)
        self._make_carrier = make_carrier or _default_carrier
        self._carrier: Carrier | None = None
        self._in_flight_count = 0

    def __repr__(self) -> str:
        return f"HttpUpstream({self._base_url!r})"

    async def start(self) -> None:
        """Make ready to send; connects to nothing yet. May follow `stop`.

        Raises:
            SettingsError: The settings name files that do not serve.
        """
        if self._carrier is None:
            carrier = self._make_carrier(self._base_url, self._settings, self._clock)
            await carrier.start()
            self._carrier = carrier

    async def stop(self) -> None:
        """Close all connections; safe to repeat. Calls under way fail as the backend's do."""
        carrier, self._carrier = self._carrier, None
        if carrier is not None:
            await carrier.stop()

    async def call(self, path: str, call: Call, *, headers: Mapping[str, str]) -> Answer:
        """Run one call and return its whole answer.

        Cancelling closes the connection, so that the upstream stops.

        Args:
            path: Below the base URL, without a leading slash.
            call: Its body and headers are sent as they are.
            headers: The backend's own, lower case; credentials belong here.

        Raises:
            FirstError: As `Backend.call`; the table stands in `first_core.plugin.http.errors`.
        """
        request = self._post(path, call, headers)
        with self._watch(call.timeouts) as watch:
            taker = WholeAnswer(
                max_bytes=self._settings.max_answer_bytes,
                idle_s=call.timeouts.idle_s,
                watch=watch,
                clock=self._clock,
            )
            await self._exchange(request, taker, watch, call.timeouts)
        return self._answer(taker, call.operation, headers)

    async def stream(
        self, path: str, call: Call, sink: ChunkSink, *, headers: Mapping[str, str]
    ) -> None:
        """Run one call and write its answer into `sink` as it arrives.

        The sink is called from the connection's own callbacks, without an `asyncio.Task` or queue
        between, so it must not rely on context variables. Cancelling closes the connection.

        Args:
            path: Below the base URL, without a leading slash.
            call: Its body and headers are sent as they are.
            sink: Takes the answer.
            headers: The backend's own, lower case; credentials belong here.

        Raises:
            FirstError: As `Backend.stream`; the table stands in `first_core.plugin.http.errors`.
        """
        request = self._post(path, call, headers)
        with self._watch(call.timeouts) as watch:
            taker = StreamedAnswer(
                sink,
                max_bytes=self._settings.max_answer_bytes,
                idle_s=call.timeouts.idle_s,
                watch=watch,
                clock=self._clock,
            )
            await self._exchange(request, taker, watch, call.timeouts)
            if not taker.is_stream:
                answer = self._answer(taker, call.operation, headers)
                if call.operation is not Operation.TRANSCRIPTION:
                    raise errors.no_answer()
                sink.start(answer.content_type)
                taker.written = True
                if sink.write(answer.body):
                    watch.pause()
                    await sink.drain()
        if not taker.written:
            raise BackendUnavailableError("the endpoint ended its answer before it began")

    async def get(
        self, path: str, *, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> Response:
        """Fetch something small, such as a list of models; any status is a response.

        Args:
            path: Below the base URL, without a leading slash.
            headers: The backend's own, lower case.
            timeout_s: Longest wait for the whole of it.
            max_bytes: Largest body.

        Raises:
            BackendTimeoutError: `timeout_s` passed.
            BackendUnavailableError: The upstream cannot be reached, or sent more or less than it
                should.
        """
        return await self._small("GET", path, headers, timeout_s=timeout_s, max_bytes=max_bytes)

    async def post(
        self, path: str, *, headers: Mapping[str, str], timeout_s: float, max_bytes: int
    ) -> Response:
        """Ask for something to be done, without a body; otherwise as `get`."""
        return await self._small("POST", path, headers, timeout_s=timeout_s, max_bytes=max_bytes)

    async def _small(
        self,
        method: Literal["GET", "POST"],
        path: str,
        own: Mapping[str, str],
        *,
        timeout_s: float,
        max_bytes: int,
    ) -> Response:
        request = Request(method, self._target(path), merge(forwarded={}, own=own), b"")
        timeouts = Timeouts(connect_s=timeout_s, first_chunk_s=None, idle_s=None, total_s=timeout_s)
        with self._watch(timeouts) as watch:
            taker = WholeAnswer(max_bytes=max_bytes, idle_s=None, watch=watch, clock=self._clock)
            await self._exchange(request, taker, watch, timeouts)
        head = _head_of(taker)
        fields = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in head.headers
        }
        return Response(head.status, fields, taker.body)

    def _post(self, path: str, call: Call, own: Mapping[str, str]) -> Request:
        headers = merge(forwarded=call.headers, own=own, content_type=call.content_type)
        return Request("POST", self._target(path), headers, call.body)

    def _target(self, path: str) -> str:
        return f"{self._prefix}/{path}"

    def _watch(self, timeouts: Timeouts) -> Watch:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("needs an asyncio.Task, which deadlines cancel")
        return self._watchdog.watch(task, total_s=timeouts.total_s)

    async def _exchange(
        self, request: Request, taker: WholeAnswer, watch: Watch, timeouts: Timeouts
    ) -> None:
        carrier = self._carrier
        if carrier is None:
            raise BackendUnavailableError("the gateway is shutting down", work_started=False)
        if self._in_flight_count >= self._settings.max_connections:
            raise OverloadedError("all connections to the endpoint are in use", retry_after_s=1.0)
        self._in_flight_count += 1
        try:
            await carrier.exchange(request, taker, watch=watch, timeouts=timeouts)
        except ErrorBodyCutError:
            return
        except CarrierError as exc:
            if taker.head is not None and not taker.is_success:
                return  # its status tells more
            written = isinstance(taker, StreamedAnswer) and taker.written
            _log.debug("exchange with %s failed", self._base_url, exc_info=exc)
            raise errors.from_carrier(exc, written=written) from exc
        finally:
            self._in_flight_count -= 1

    def _answer(
        self, taker: WholeAnswer, operation: Operation, headers: Mapping[str, str]
    ) -> Answer:
        head, body = _head_of(taker), taker.body
        if not taker.is_success:
            raise self._refusal(head, body, headers)
        try:
            error = embedded_error(body)
        except NoJsonError as exc:
            if operation is not Operation.TRANSCRIPTION:
                raise errors.no_answer() from exc
        else:
            if error is not None:
                raise self._refusal(head, body, headers, status=status_of(error) or 500)
        return Answer(body, head.get(b"content-type"))

    def _refusal(
        self, head: Head, body: bytes, headers: Mapping[str, str], *, status: int | None = None
    ) -> FirstError:
        secrets = [value.rpartition(" ")[2] for value in headers.values()]
        return errors.from_status(
            head, body, now_s=self._clock.time(), secrets=secrets, status=status
        )


def _head_of(taker: WholeAnswer) -> Head:
    if taker.head is None:
        raise errors.no_answer()
    return taker.head


def _default_carrier(base_url: str, settings: UpstreamSettings, clock: Clock) -> Carrier:
    if settings.proxy is None:
        return PoolCarrier(base_url, settings, clock)
    from first_core.plugin.http.session import SessionCarrier  # noqa: PLC0415 - aiohttp is heavy

    return SessionCarrier(base_url, settings, clock)
