"""One streamed answer: from its first attempt to its end, across the endpoints that it takes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from first_core.domain.error_events import is_refusal
from first_core.domain.sink import AnswerSink
from first_core.domain.streams import reader_for
from first_core.domain.transcript import Transcript
from first_core.errors import (
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    FirstError,
    StreamTruncatedError,
)
from first_core.types import Operation

if TYPE_CHECKING:
    from first_core.domain.calls import AnswerWriter, Trailer
    from first_core.domain.catalog import Endpoint
    from first_core.domain.ledger import Attempt
    from first_core.domain.relay import OneCall
    from first_core.domain.rescue import Rescue
    from first_core.domain.streams import StreamReader
    from first_core.plugin import Call

COUNT_TIMEOUT_S: Final = 2.0
"""Longest wait for the number of tokens, in seconds: the client waits in the middle of a sentence,
and the number of events is nearly as good."""

_log = logging.getLogger(__name__)


class StreamedAnswer:
    """Streams the answer of one call.

    Args:
        one: The call.
        writer: The way to the client.
    """

    def __init__(self, one: OneCall, writer: AnswerWriter) -> None:
        self._one = one
        self._writer = writer
        # Read from the body once for all attempts.
        self._asks_usage = one.body.asks_usage
        self._choice_count = one.body.choice_count
        self._transcript: Transcript | None = None
        self._was_at: list[Endpoint] = []

    async def run(self, rescue: Rescue) -> Trailer:
        """Stream the answer, going on elsewhere where it breaks and that is possible.

        Raises:
            FirstError: Before the head any; after it `StreamTruncatedError`, or
                `BackendTimeoutError`.
        """
        try:
            return await rescue.run(self._one.model, self._attempt)
        except (StreamTruncatedError, BackendTimeoutError) as exc:
            if not self._can_continue(rescue, exc):
                raise
            failure: FirstError = exc
        while True:
            attempt_count = self._one.ledger.attempt_count
            try:
                return await rescue.run_elsewhere(
                    self._was_at, self._continue, fits=self._fits, waits=True
                )
            except (StreamTruncatedError, BackendTimeoutError) as exc:
                failure = exc
            except FirstError:
                # What that endpoint said is about our request, not about the client's.
                _log.debug("continuation_failed", exc_info=True)
                if self._one.ledger.attempt_count == attempt_count:
                    raise failure from None  # there is no place to go on
            if not self._can_continue(rescue, failure):
                raise failure

    def _can_continue(self, rescue: Rescue, failure: FirstError) -> bool:
        if is_refusal(failure):
            return False
        one = self._one
        allowed = one.config.settings.resilience.continuation and one.incoming.continues
        return (
            allowed
            and one.ledger.has_begun
            and self._transcript is not None
            and rescue.may_continue()
            and self._transcript.can_continue()
        )

    def _fits(self, endpoint: Endpoint) -> bool:
        """Tell whether an endpoint can go on; where there is no text yet, any can."""
        transcript = self._transcript
        return endpoint.report.continues_messages or not (transcript and transcript.text)

    async def _attempt(self, endpoint: Endpoint, account: Attempt) -> Trailer:
        call = self._one.call_for(endpoint, account)
        if self._one.config.settings.resilience.continuation and self._one.incoming.continues:
            self._transcript = Transcript(call.operation, call.body)
        return await self._stream(endpoint, account, call)

    async def _continue(self, endpoint: Endpoint, account: Attempt) -> Trailer:
        transcript = self._transcript
        if transcript is None:
            raise BackendUnavailableError("there is nothing to go on from", work_started=False)
        await self._count_tokens(endpoint, account, transcript)
        self._one.ledger.continuation_count += 1
        _log.info(
            "stream_continued",
            extra={
                "request_id": self._one.incoming.request_id,
                "endpoint": str(endpoint.id),
                "token_count": transcript.used_token_count,
            },
        )
        body = transcript.request(self._one.body_for(endpoint))
        if body is None:
            return await self._end_at_limit(transcript)
        call = self._one.call_for(endpoint, account, body)
        return await self._stream(endpoint, account, call)

    async def _count_tokens(
        self, endpoint: Endpoint, account: Attempt, transcript: Transcript
    ) -> None:
        """Ask how many tokens the text has, since an event may hold several.

        Where the endpoint cannot tell, the number of events stands for it.
        """
        if not transcript.text or Operation.TOKENIZE not in endpoint.report.operations:
            return
        body = transcript.tokenize_request(endpoint.report.served_model)
        call = self._one.call_for(endpoint, account, body)
        timeouts = replace(call.timeouts, first_chunk_s=COUNT_TIMEOUT_S)
        call = replace(call, operation=Operation.TOKENIZE, timeouts=timeouts)
        try:
            answer = await endpoint.backend.call(call)
        except FirstError:
            return
        transcript.counted(answer.body)

    async def _end_at_limit(self, transcript: Transcript) -> Trailer:
        """Send the end that is all that is missing."""
        await self._writer.data(transcript.last_events() + b"data: [DONE]\n\n")
        self._one.ledger.finish_reasons = ("length",)
        return self._one.ledger.trailer()

    async def _stream(self, endpoint: Endpoint, account: Attempt, call: Call) -> Trailer:
        ledger = self._one.ledger
        adds_usage = self._adds_usage(endpoint, call)
        if adds_usage:
            call = replace(call, body=self._one.body.with_usage(call.body))
        reader = reader_for(
            call.operation,
            choice_count=self._choice_count,
            hides_usage=adds_usage,
            max_event_bytes=self._one.config.settings.limits.max_event_bytes,
        )
        sink = AnswerSink(
            endpoint.id,
            ledger.attempt_count,
            reader,
            self._writer,
            account.first_chunk,
            transcript=self._transcript,
            continues=ledger.has_begun,
        )
        self._was_at.append(endpoint)
        try:
            await _pour(endpoint, call, sink)
        finally:
            ledger.chunk_count += sink.chunk_count
            self._settle(reader)
        return ledger.trailer()

    def _settle(self, reader: StreamReader) -> None:
        ledger, transcript = self._one.ledger, self._transcript
        ledger.finish_reasons = reader.finish_reasons
        ledger.usage = reader.usage
        ledger.is_whole = reader.complete
        if ledger.continuation_count and transcript is not None and reader.usage is not None:
            ledger.usage = transcript.sum_up(reader.usage)

    def _adds_usage(self, endpoint: Endpoint, call: Call) -> bool:
        """Tell whether usage must be asked for on the client's behalf."""
        return (
            not self._asks_usage
            and endpoint.report.streams_usage
            and call.operation in {Operation.CHAT, Operation.COMPLETION}
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
    cls = StreamTruncatedError if sink.has_begun else BackendUnavailableError
    if isinstance(broken, StreamTruncatedError) or sink.has_begun:
        return cls(broken.message, metadata=broken.metadata, upstream=broken.upstream)
    return broken
