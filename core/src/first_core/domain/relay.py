"""Runs one call: decide, attempt, go on to the next endpoint before the first byte, cancel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from first_core.domain.body import Body
from first_core.domain.calls import AnswerWriter, Head, IncomingCall, Result, Trailer
from first_core.domain.ledger import Ledger
from first_core.domain.routing import candidates
from first_core.domain.sink import AnswerSink
from first_core.domain.streams import read_answer, reader_for
from first_core.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    CapacityError,
    FirstError,
    InvalidRequestError,
    StreamTruncatedError,
)
from first_core.plugin import Call

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from first_core.clock import Clock
    from first_core.domain.catalog import Catalog, Endpoint
    from first_core.settings import CoreSettings
    from first_core.telemetry import CallRecord, Telemetry
    from first_core.types import Timeouts

T = TypeVar("T")


class Relay:
    """Runs calls on the endpoints of the catalog.

    Args:
        catalog: What there is.
        settings: Limits, bounds and the header allow-list.
        telemetry: Spans, metrics and call logs.
        clock: The time.
        watchers: Called with the record of each ended call.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        settings: CoreSettings,
        telemetry: Telemetry,
        clock: Clock,
        watchers: Sequence[Callable[[CallRecord], None]] = (),
    ) -> None:
        self._catalog = catalog
        self._limits = settings.limits
        self._bounds = settings.timeouts.bounds()
        self._forward = frozenset(name.lower() for name in settings.forward_headers)
        self._telemetry = telemetry
        self._clock = clock
        self._watchers = tuple(watchers)

    async def call(self, incoming: IncomingCall) -> Result:
        """Run one call and return its whole answer.

        Raises:
            FirstError: The caller's fault at once; else that of the last attempt.
        """
        return await self._recorded(incoming, self._call, streamed=False)

    async def stream(self, incoming: IncomingCall, writer: AnswerWriter) -> Trailer:
        """Run one call and hand its answer to `writer` as it arrives.

        Raises:
            FirstError: As `call` before the head; after it `StreamTruncatedError`, or
                `BackendTimeoutError` for a stream that fell silent.
        """

        async def run(call: IncomingCall, ledger: Ledger) -> Trailer:
            return await self._stream(call, writer, ledger)

        return await self._recorded(incoming, run, streamed=True)

    async def _recorded(
        self,
        incoming: IncomingCall,
        run: Callable[[IncomingCall, Ledger], Awaitable[T]],
        *,
        streamed: bool,
    ) -> T:
        ledger = Ledger(incoming, self._telemetry, self._clock, streamed=streamed)
        try:
            return await run(incoming, ledger)
        except BaseException as exc:
            ledger.failed(exc)
            raise
        finally:
            record = ledger.close()
            for watcher in self._watchers:
                watcher(record)

    async def _call(self, incoming: IncomingCall, ledger: Ledger) -> Result:
        async def attempt(endpoint: Endpoint, call: Call) -> Result:
            answer = await endpoint.backend.call(call)
            ledger.first_chunk()
            ledger.usage, ledger.finish_reasons = read_answer(answer.body)
            head = Head(endpoint.id, ledger.attempt_count, answer.content_type)
            return Result(answer, head, ledger.trailer())

        body = self._body(incoming)
        return await self._attempts(incoming, body, body.with_model, ledger, attempt)

    async def _stream(
        self, incoming: IncomingCall, writer: AnswerWriter, ledger: Ledger
    ) -> Trailer:
        body = self._body(incoming)
        # Read from the body once for all attempts.
        asks_usage, choice_count = body.asks_usage, body.choice_count

        async def attempt(endpoint: Endpoint, call: Call) -> Trailer:
            adds_usage = _adds_usage(endpoint, call, asks_usage=asks_usage)
            if adds_usage:
                call = replace(call, body=body.with_usage(call.body))
            reader = reader_for(
                call.operation,
                choice_count=choice_count,
                hides_usage=adds_usage,
                max_event_bytes=self._limits.max_event_bytes,
            )
            sink = AnswerSink(endpoint.id, ledger.attempt_count, reader, writer, ledger.first_chunk)
            try:
                await _pour(endpoint, call, sink)
            finally:
                ledger.chunk_count = sink.chunk_count
                ledger.usage, ledger.finish_reasons = reader.usage, reader.finish_reasons
            return ledger.trailer()

        return await self._attempts(incoming, body, body.with_model, ledger, attempt)

    def _body(self, incoming: IncomingCall) -> Body:
        return Body(incoming.operation, incoming.body, incoming.content_type)

    async def _attempts(
        self,
        incoming: IncomingCall,
        body: Body,
        with_model: Callable[[str], bytes],
        ledger: Ledger,
        attempt: Callable[[Endpoint, Call], Awaitable[T]],
    ) -> T:
        """Try the candidates in order until one answers or a byte has reached the client."""
        model = incoming.model or body.model
        if not model:
            raise InvalidRequestError("`model` is missing", metadata={"field": "model"})
        failure: FirstError | None = None
        for endpoint in self._candidates(model, incoming, ledger):
            with ledger.attempt(endpoint.id) as span:
                call = Call(
                    operation=incoming.operation,
                    endpoint=endpoint.id,
                    body=with_model(endpoint.report.served_model),
                    content_type=incoming.content_type,
                    headers=self._headers(incoming, span.context.traceparent),
                    timeouts=self._timeouts(incoming, ledger),
                )
                try:
                    return await attempt(endpoint, call)
                except (CapacityError, BackendError) as exc:
                    ledger.attempt_failed(exc)
                    failure = exc
            if ledger.first_chunk_s is not None:
                break
        assert failure is not None  # noqa: S101 - there is at least one candidate
        raise failure

    def _candidates(self, model: str, incoming: IncomingCall, ledger: Ledger) -> Sequence[Endpoint]:
        endpoints = self._catalog.endpoints_of(model)
        if endpoints:
            ledger.requested_model = model
        return candidates(model, incoming.operation, incoming.pin, endpoints)

    def _headers(self, incoming: IncomingCall, traceparent: str) -> dict[str, str]:
        headers = {k: v for k, v in incoming.headers.items() if k in self._forward}
        headers["traceparent"] = traceparent
        if incoming.trace is not None and incoming.trace.tracestate:
            headers["tracestate"] = incoming.trace.tracestate
        headers["x-request-id"] = incoming.request_id
        return headers

    def _timeouts(self, incoming: IncomingCall, ledger: Ledger) -> Timeouts:
        """Return the bounds of an attempt: what is left of the total counts for all of them."""
        bounds = self._bounds
        if incoming.first_chunk_timeout_s is not None:
            bounds = replace(bounds, first_chunk_s=incoming.first_chunk_timeout_s)
        limits = [t for t in (bounds.total_s, incoming.time_remaining_s) if t is not None]
        if not limits:
            return bounds
        left = min(limits) - ledger.elapsed_s()
        if left <= 0:
            raise BackendTimeoutError(
                "the call took longer than allowed",
                work_started=ledger.attempt_count > 1,
                metadata={"bound": "total", "timeout_s": f"{min(limits):g}"},
            )
        return replace(bounds, total_s=left)


def _adds_usage(endpoint: Endpoint, call: Call, *, asks_usage: bool) -> bool:
    """Tell whether usage must be asked for on the client's behalf."""
    return (
        not asks_usage
        and endpoint.report.streams_usage
        and call.operation.name in {"CHAT", "COMPLETION"}
    )


async def _pour(endpoint: Endpoint, call: Call, sink: AnswerSink) -> None:
    """Stream one attempt into the sink; what breaks off after the end does no harm."""
    broken: BackendError | None = None
    try:
        await endpoint.backend.stream(call, sink)
    except BackendError as exc:
        broken = exc
    try:
        await sink.finish()
    except FirstError as exc:
        if broken is not None:
            raise _told(broken, sink) from broken
        raise exc from None


def _told(broken: BackendError, sink: AnswerSink) -> BackendError:
    """Return the error that the client gets for a connection that broke."""
    if isinstance(broken, BackendTimeoutError):
        return broken
    # Bytes may have come from the upstream without a whole event among them.
    cls = StreamTruncatedError if sink.head_sent else BackendUnavailableError
    if isinstance(broken, StreamTruncatedError) or sink.head_sent:
        return cls(broken.message, metadata=broken.metadata, upstream=broken.upstream)
    return broken
