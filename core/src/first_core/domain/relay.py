"""Runs one call: route, admit, attempt, rescue before the first byte, continue after it, cancel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from first_core.domain.admission import WaitTerms
from first_core.domain.affinity import affinity_key
from first_core.domain.body import Body
from first_core.domain.calls import AnswerWriter, Head, IncomingCall, Result, Trailer
from first_core.domain.hedging import hedged
from first_core.domain.ledger import Ledger
from first_core.domain.rescue import Rescue
from first_core.domain.streaming import StreamedAnswer
from first_core.domain.streams import read_answer
from first_core.errors import BackendTimeoutError, InvalidRequestError
from first_core.plugin import Call
from first_core.plugin.policy import RouteRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from first_core.clock import Clock
    from first_core.domain.admission import Progress
    from first_core.domain.catalog import Endpoint
    from first_core.domain.config import RelayConfig
    from first_core.domain.ledger import Attempt
    from first_core.domain.routes import Route
    from first_core.telemetry import CallRecord, Telemetry
    from first_core.types import Timeouts

T = TypeVar("T")


class Relay:
    """Runs calls on the endpoints of the catalog.

    Args:
        config: Routes, admission and settings; `configure` swaps them.
        telemetry: Spans, metrics and call logs.
        clock: The time.
        watchers: Called with the record of each ended call.
    """

    def __init__(
        self,
        *,
        config: RelayConfig,
        telemetry: Telemetry,
        clock: Clock,
        watchers: Sequence[Callable[[CallRecord], None]] = (),
    ) -> None:
        self.config = config
        self._telemetry = telemetry
        self._clock = clock
        self._watchers = tuple(watchers)

    def configure(self, config: RelayConfig) -> None:
        """Run calls that begin from now on by `config`; those in flight keep what they had."""
        self.config = config

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

        async def run(one: OneCall) -> Trailer:
            return await self._stream(one, writer)

        return await self._recorded(incoming, run, streamed=True)

    async def _recorded(
        self,
        incoming: IncomingCall,
        run: Callable[[OneCall], Awaitable[T]],
        *,
        streamed: bool,
    ) -> T:
        ledger = Ledger(incoming, self._telemetry, self._clock, streamed=streamed)
        try:
            return await run(OneCall(incoming, ledger, self.config, self._clock))
        except BaseException as exc:
            ledger.failed(exc)
            raise
        finally:
            record = ledger.close()
            for watcher in self._watchers:
                watcher(record)

    async def _call(self, one: OneCall) -> Result:
        ledger = one.ledger

        async def attempt(endpoint: Endpoint, account: Attempt) -> Result:
            answer = await endpoint.backend.call(one.call_for(endpoint, account))
            account.first_chunk()
            ledger.usage, ledger.finish_reasons = read_answer(answer.body)
            head = Head(endpoint.id, ledger.attempt_count, answer.content_type)
            return Result(answer, head, ledger.trailer())

        rescue = one.rescue(tell=None)
        if one.config.settings.resilience.hedge:
            result = await hedged(rescue, one.model, attempt, self._clock)
            ledger.settle(result.head, result.trailer)
            return result
        return await rescue.run(one.model, attempt)

    async def _stream(self, one: OneCall, writer: AnswerWriter) -> Trailer:
        async def tell(progress: Progress) -> None:
            await writer.progress(progress)

        answer = StreamedAnswer(one, writer)
        return await answer.run(one.rescue(tell=tell))


class OneCall:
    """One call with all that its attempts share.

    Raises:
        InvalidRequestError: Its body is not what the operation takes, or names no model.
    """

    def __init__(
        self, incoming: IncomingCall, ledger: Ledger, config: RelayConfig, clock: Clock
    ) -> None:
        self.incoming = incoming
        self.ledger = ledger
        self.config = config
        self.body = Body(incoming.operation, incoming.body, incoming.content_type)
        self.model = incoming.model or self.body.model
        if not self.model:
            raise InvalidRequestError("`model` is missing", metadata={"field": "model"})
        self._clock = clock

    def rescue(self, *, tell: Callable[[Progress], Awaitable[None]] | None) -> Rescue:
        """Return what runs attempts in the order of rescue."""
        incoming = self.incoming
        return Rescue(
            incoming,
            self.ledger,
            routes=self.config.routes,
            admission=self.config.admission,
            budget=self.config.budget,
            settings=self.config.settings.resilience,
            clock=self._clock,
            request=self._route_request,
            terms=WaitTerms(incoming.wait_budget_s, incoming.principal.tenant, incoming.priority),
            tell=tell,
        )

    def _route_request(self, route: Route) -> RouteRequest:
        key = affinity_key(self.incoming) if route.policy.needs_affinity else b""
        return RouteRequest(self.incoming.operation, route.model, key)

    def call_for(self, endpoint: Endpoint, account: Attempt, body: bytes | None = None) -> Call:
        """Return the call as an endpoint gets it.

        Args:
            endpoint: Where it goes.
            account: Of the attempt.
            body: Instead of the client's own.
        """
        return Call(
            operation=self.incoming.operation,
            endpoint=endpoint.id,
            body=self.body_for(endpoint) if body is None else body,
            content_type=self.incoming.content_type,
            headers=self._headers(account.span.context.traceparent),
            timeouts=self._timeouts(endpoint.timeouts),
            hops=self.incoming.hops,
            hop_budget=self.incoming.hop_budget,
            principal=self.incoming.principal,
        )

    def body_for(self, endpoint: Endpoint) -> bytes:
        """Return the client's body with the endpoint's own name of the model in it."""
        return self.body.with_model(endpoint.report.served_model)

    def _headers(self, traceparent: str) -> dict[str, str]:
        incoming, forward = self.incoming, self.config.forward_headers
        headers = {k: v for k, v in incoming.headers.items() if k in forward}
        headers["traceparent"] = traceparent
        if incoming.trace is not None and incoming.trace.tracestate:
            headers["tracestate"] = incoming.trace.tracestate
        headers["x-request-id"] = incoming.request_id
        return headers

    def _timeouts(self, bounds: Timeouts) -> Timeouts:
        """Return the bounds of an attempt: what is left of the total counts for all of them."""
        incoming, ledger = self.incoming, self.ledger
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
