"""Reads a streamed answer as it passes: is it complete, what did it use, did it fail.

A stream is complete when each choice has its `finish_reason`, or when the dialect's own end event
came. `[DONE]` alone proves nothing. No event is parsed unless it holds a word that matters.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from first_core.domain.events import EventCutter, payload, split, terminated
from first_core.types import Operation, Usage

DONE: Final = b"data: [DONE]\n\n"
"""End marker of OpenAI's chat and completion streams."""

_FINISHED: Final = re.compile(rb'"finish_reason"\s*:\s*"')


class StreamFailedError(Exception):
    """The upstream sent an error as an event.

    `payload` is its JSON, `before` what came whole in the same bytes ahead of it.
    """

    def __init__(self, payload: bytes) -> None:
        super().__init__("the upstream sent an error event")
        self.payload = payload
        self.before = b""


class StreamReader(ABC):
    """Reads one streamed answer.

    Args:
        max_event_bytes: Bound on a single event.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._cutter = EventCutter(max_event_bytes)
        self.usage: Usage | None = None
        self.ended = False
        """Whether the dialect's end has been seen and nothing more is passed on."""
        self._begun = False
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes as they come and return the whole events to pass on now, maybe none.

        Comments before the first event are held until it is there.

        Raises:
            StreamFailedError: An event is an error.
            ValueError: An event is too large, or the first one is no JSON.
        """
        events = self._cutter.feed(data)
        if not events:
            return events
        if not self._begun:
            return self._begin(self._held + events)
        if not self.ended and not self._matters(events):
            return events
        return self._inspect(events)

    def _begin(self, events: bytes) -> bytes:
        first = next(filter(None, map(payload, split(events))), b"")
        if not first:
            self._held = events
            return b""
        if not _parses(first):
            raise ValueError("the first event is no JSON")
        self._begun, self._held = True, b""
        return self._inspect(events)

    def finish(self) -> bytes:
        """Return what is still to be passed on when the upstream has ended, maybe nothing.

        Raises:
            StreamFailedError: The last event, left without its blank line, is an error.
        """
        rest = self._cutter.rest()
        if not rest.strip():
            return self._end_marker()
        # Some servers forget the last blank line. Half an event is no event: it must parse.
        whole = terminated(rest)
        out = self._inspect(whole) if _parses(payload(whole)) else b""
        return out + self._end_marker()

    def _inspect(self, events: bytes) -> bytes:
        passed: list[bytes] = []
        try:
            passed += (e for e in split(events) if not self.ended and self._passes(e))
        except StreamFailedError as exc:
            exc.before = b"".join(passed)
            raise
        return b"".join(passed)

    @property
    @abstractmethod
    def complete(self) -> bool:
        """Whether the answer is whole."""

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """Why the model stopped, one per choice in order."""
        return ()

    @abstractmethod
    def _matters(self, events: bytes) -> bool:
        """Return quickly whether `events` may hold something to read."""

    @abstractmethod
    def _passes(self, event: bytes) -> bool:
        """Read one event and tell whether the client gets it."""

    def _end_marker(self) -> bytes:
        """Return the dialect's end marker if it is due and did not come."""
        return b""


def _parses(data: bytes) -> bool:
    if data.strip() == b"[DONE]":
        return True
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


class _TokenDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    prompt_tokens_details: _TokenDetails | None = None
    input_tokens_details: _TokenDetails | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None


class _ChoiceEvent(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"")
    object: str | None = None
    type: str | None = None


_decode_choice_event: Final = msgspec.json.Decoder(_ChoiceEvent).decode


def to_usage(found: _Usage | None) -> Usage | None:
    """Return the counts in either dialect's words; `None` when there are none."""
    if found is None:
        return None
    given, made = (
        found.input_tokens if found.prompt_tokens is None else found.prompt_tokens,
        found.output_tokens if found.completion_tokens is None else found.completion_tokens,
    )
    if given is None and made is None:
        return None
    details = found.prompt_tokens_details or found.input_tokens_details
    cached = found.cache_read_input_tokens or (details.cached_tokens if details else 0) or 0
    return Usage(given or 0, made or 0, cached)


class ChoiceReader(StreamReader):
    """Streams of choices: OpenAI's chat and completions, and vLLM's transcriptions.

    Args:
        choice_count: How many choices the answer has.
        hides_usage: Whether the usage event is ours alone, since the client did not ask for it.
        max_event_bytes: Bound on a single event.
    """

    def __init__(self, *, choice_count: int, hides_usage: bool, max_event_bytes: int) -> None:
        super().__init__(max_event_bytes)
        self._choice_count = choice_count
        self._hides_usage = hides_usage
        self._finished: dict[int, str] = {}
        self._text_done = False
        self._usage_alone = False

    @property
    def complete(self) -> bool:
        """Whether each choice has its `finish_reason`."""
        return self._text_done or len(self._finished) >= self._choice_count

    @property
    def finish_reasons(self) -> tuple[str, ...]:
        """One per choice, in order."""
        return tuple(self._finished[index] for index in sorted(self._finished))

    def _matters(self, events: bytes) -> bool:
        return (
            b'"usage"' in events
            or b'"error"' in events
            or b"[DONE]" in events
            or _FINISHED.search(events) is not None
            or b"transcript.text.done" in events
        )

    def _passes(self, event: bytes) -> bool:
        data = payload(event)
        if data.strip() == b"[DONE]":
            self.ended = True
            return self.complete
        try:
            found = _decode_choice_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True  # not ours to judge: passed on as it came
        if _is_error(found):
            if self.complete:
                return False  # the answer is whole: no more can break, and the client has it all
            raise StreamFailedError(data)
        self._text_done = self._text_done or found.type == "transcript.text.done"
        for choice in found.choices or ():
            if choice.finish_reason is not None:
                self._finished[choice.index] = choice.finish_reason
        alone = found.usage is not None and not found.choices
        self._add_usage(to_usage(found.usage), alone=alone)
        return not (self._hides_usage and alone)

    def _add_usage(self, usage: Usage | None, *, alone: bool) -> None:
        """Sum events that hold usage alone; usage beside choices counts up by itself.

        llama.cpp sends one such event per choice, each with that choice's tokens.
        """
        if usage is None:
            return
        if alone and self._usage_alone and self.usage is not None:
            usage = self.usage + usage
        self._usage_alone = self._usage_alone or alone
        self.usage = usage

    def _end_marker(self) -> bytes:
        return DONE if self.complete and not self.ended else b""


def _is_error(found: _ChoiceEvent) -> bool:
    said = bytes(found.error) not in (b"", b"null")
    return (said or found.object == "error" or found.type == "error") and not found.choices


class _TypedBody(msgspec.Struct, gc=False):
    usage: _Usage | None = None


class _TypedEvent(msgspec.Struct, gc=False):
    type: str = ""
    response: _TypedBody | None = None
    message: _TypedBody | str | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw(b"")


_decode_typed_event: Final = msgspec.json.Decoder(_TypedEvent).decode


class TypedReader(StreamReader):
    """Streams of typed events that have an end event of their own.

    Args:
        ends: Types of events that end the answer.
        max_event_bytes: Bound on a single event.
    """

    def __init__(self, *, ends: frozenset[str], max_event_bytes: int) -> None:
        super().__init__(max_event_bytes)
        self._ends = ends
        self._complete = False
        self._words = [end.encode() for end in ends] + [b'"usage"', b'"error"', b"[DONE]"]

    @property
    def complete(self) -> bool:
        """Whether the end event came."""
        return self._complete

    def _matters(self, events: bytes) -> bool:
        return any(word in events for word in self._words)

    def _passes(self, event: bytes) -> bool:
        data = payload(event)
        if data.strip() == b"[DONE]":
            self.ended = True
            return self._complete
        try:
            found = _decode_typed_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        said = bytes(found.error) not in (b"", b"null")
        if found.type == "error" or (said and not found.type):
            if self._complete:
                return False
            raise StreamFailedError(data)
        self._add_usage(found)
        self._complete = self._complete or found.type in self._ends
        return True

    def _add_usage(self, found: _TypedEvent) -> None:
        """Take the larger of each count: Anthropic tells input first and output as it grows."""
        bodies = (found.response, found.message)
        told = [found.usage, *(b.usage for b in bodies if isinstance(b, _TypedBody))]
        for usage in filter(None, map(to_usage, told)):
            old = self.usage or Usage(0, 0)
            self.usage = Usage(
                max(old.input_token_count, usage.input_token_count),
                max(old.output_token_count, usage.output_token_count),
                max(old.cached_token_count, usage.cached_token_count),
            )


RESPONSE_ENDS: Final = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "response.cancelled"}
)
"""End events of OpenAI's Responses API. Source: OpenAI API reference, "Streaming events"."""

MESSAGE_ENDS: Final = frozenset({"message_stop"})
"""End event of Anthropic's Messages API. Source: Anthropic API reference, "Streaming"."""


def reader_for(
    operation: Operation, *, choice_count: int, hides_usage: bool, max_event_bytes: int
) -> StreamReader:
    """Return the reader of an operation's streams."""
    if operation is Operation.RESPONSE:
        return TypedReader(ends=RESPONSE_ENDS, max_event_bytes=max_event_bytes)
    if operation is Operation.MESSAGE:
        return TypedReader(ends=MESSAGE_ENDS, max_event_bytes=max_event_bytes)
    return ChoiceReader(
        choice_count=choice_count, hides_usage=hides_usage, max_event_bytes=max_event_bytes
    )


class _WholeChoice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _WholeAnswer(msgspec.Struct, gc=False):
    usage: _Usage | None = None
    choices: list[_WholeChoice] | None = None


_decode_whole: Final = msgspec.json.Decoder(_WholeAnswer).decode


def read_answer(body: bytes) -> tuple[Usage | None, tuple[str, ...]]:
    """Return usage and finish reasons of an answer that is not streamed; nothing if it has none."""
    try:
        found = _decode_whole(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, ()
    reasons = (choice.finish_reason for choice in found.choices or ())
    return to_usage(found.usage), tuple(reason for reason in reasons if reason)
