"""Remembers a streamed chat answer, so that another endpoint can go on where it broke.

Source of the request's form: vLLM, "OpenAI-Compatible Server", `continue_final_message` with
`add_generation_prompt: false`: the last message, of the assistant, is left open and continued.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from first_core.domain.events import payload, split
from first_core.types import Operation, Usage

MAX_TRANSCRIPT_BYTES: Final = 4 * 1024 * 1024
"""Answers longer than this are not continued; about 20,000 events."""

_LIMITS: Final = ("max_tokens", "max_completion_tokens", "min_tokens")
_STRUCTURED: Final = (
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
)
_FIRST_PART_ONLY: Final = ("logprobs", "prompt_logprobs", "echo", "return_token_ids")
"""What an answer would have of the part before the break only, or twice."""
_PLAIN_DELTA: Final = frozenset({"role", "content"})

_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.encode


class Transcript:
    """What a client has got of one streamed chat answer.

    Args:
        operation: What was asked.
        body: The body of the first attempt.
    """

    def __init__(self, operation: Operation, body: bytes) -> None:
        self._request = body
        self._events: list[bytes] = []
        self._size = 0
        self._dead = operation is not Operation.CHAT
        self.text = ""
        self.first: dict[str, Any] = {}
        """The first event, whose id and time the whole answer has."""
        self.used_token_count = 0
        """Tokens of the text, as the endpoint that goes on counts them."""

    def add(self, events: bytes) -> None:
        """Keep events that were sent. Nothing is parsed until it is needed."""
        if self._dead:
            return
        self._size += len(events)
        if self._size > MAX_TRANSCRIPT_BYTES:
            self._dead = True
            self._events.clear()
        else:
            self._events.append(events)

    def can_continue(self) -> bool:
        """Read what was sent and tell whether another endpoint can go on exactly there.

        It can with one choice of plain text: no tool call, no reasoning, no structured output, no
        log probabilities, and no choice that has finished.
        """
        if self._dead:
            return False
        try:
            self._dead = not (_allows(_decode(self._request)) and self._read())
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
            self._dead = True
        return not self._dead

    def _read(self) -> bool:
        parts, self._events = self._events, []
        for event in split(b"".join(parts)):
            data = payload(event)
            if not data:
                continue
            found = _decode(data)
            self.first = self.first or found
            for choice in found["choices"]:
                delta = choice["delta"]
                if choice.get("finish_reason") or choice.get("logprobs"):
                    return False
                if any(value for key, value in delta.items() if key not in _PLAIN_DELTA):
                    return False
                piece = delta.get("content") or ""
                self.text += piece
                self.used_token_count += bool(piece)
        return True

    def request(self, body: bytes) -> bytes | None:
        """Return `body` changed so that its answer goes on after the text.

        `None`: the text has used up the token limit, so nothing is left to be said.
        """
        found = _decode(body)
        for limit in _LIMITS:
            if isinstance(found.get(limit), int):
                found[limit] -= self.used_token_count
                if found[limit] <= 0 and limit != "min_tokens":
                    return None
                found[limit] = max(found[limit], 0)
        if self.text:
            found["messages"] = _open_message(found, self.text)
            found["continue_final_message"] = True
            found["add_generation_prompt"] = False
        return _encode(found)

    def tokenize_request(self, model: str) -> bytes:
        """Return the body that asks an endpoint for the number of tokens in the text."""
        return _encode({"model": model, "prompt": self.text, "add_special_tokens": False})

    def counted(self, answer: bytes) -> None:
        """Take the number of tokens from a tokenizer's answer, if it tells one."""
        try:
            count = _decode(answer)["count"]
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
            return
        if isinstance(count, int) and count > 0:
            self.used_token_count = count

    def sum_up(self, usage: Usage) -> Usage:
        """Return the usage of the whole answer from that of its last part.

        For the endpoint that went on, the text was part of the prompt.
        """
        used = self.used_token_count
        return Usage(
            max(0, usage.input_token_count - used),
            usage.output_token_count + used,
            usage.cached_token_count,
        )

    def edit(self, events: bytes) -> bytes:
        """Return events of the endpoint that goes on, as part of the answer that has begun."""
        return b"".join(map(self._edit, split(events)))

    def _edit(self, event: bytes) -> bytes:
        data = payload(event)
        try:
            found = _decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return event
        if not isinstance(found, dict):
            return event
        for key in ("id", "created"):
            if key in self.first:
                found[key] = self.first[key]
        if self.first and _only_opens(found):
            return b""
        for choice in found.get("choices") or ():
            if self.first and isinstance(choice.get("delta"), dict):
                choice["delta"].pop("role", None)
        if isinstance(found.get("usage"), dict):
            usage = found["usage"]
            summed = self.sum_up(
                Usage(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
            )
            usage["prompt_tokens"] = summed.input_token_count
            usage["completion_tokens"] = summed.output_token_count
        return b"data: " + _encode(found) + b"\n\n"

    def last_events(self) -> bytes:
        """Return the end of an answer whose text has used up the token limit."""
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
        return b"data: " + _encode({**self.first, "choices": [choice]}) + b"\n\n"


def _allows(body: dict[str, Any]) -> bool:
    structured = any(body.get(key) and body.get(key) != {"type": "text"} for key in _STRUCTURED)
    return (
        body.get("n") in (None, 1)
        and not any(body.get(key) for key in _FIRST_PART_ONLY)
        and not structured
        and isinstance(body.get("messages"), list)
        and _can_open(body)
    )


def _can_open(body: dict[str, Any]) -> bool:
    """Tell whether text can be added to the last message, where the client left that one open."""
    if not body.get("continue_final_message"):
        return True
    return bool(body["messages"]) and isinstance(body["messages"][-1].get("content"), str)


def _only_opens(event: dict[str, Any]) -> bool:
    """Tell whether an event does nothing but to open an answer, which has been opened."""
    choices = event.get("choices") or ()
    return bool(choices) and all(
        choice.get("finish_reason") is None
        and "role" in choice["delta"]
        and not any(value for key, value in choice["delta"].items() if key != "role")
        for choice in choices
    )


def _open_message(body: dict[str, Any], text: str) -> list[Any]:
    messages = list(body["messages"])
    if body.get("continue_final_message"):
        last = dict(messages[-1])
        last["content"] = f"{last['content']}{text}"
        return [*messages[:-1], last]
    return [*messages, {"role": "assistant", "content": text}]
