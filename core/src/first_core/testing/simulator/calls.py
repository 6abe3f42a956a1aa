"""What the text routes share: reading a call, its limits, and handing it to the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar
from zlib import crc32

import msgspec

from first_core.testing.simulator import errors, tokenizer
from first_core.testing.simulator.engine import PlainWork, StreamWork
from first_core.testing.simulator.generation import WORDS
from first_core.testing.simulator.http import JSON
from first_core.testing.simulator.spoil import DONE, SpoiledExchange

if TYPE_CHECKING:
    from first_core.testing.simulator.generation import Answer
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

    Handler = Callable[[Simulator, Exchange], None]

Ticks = Iterator[Sequence[bytes]]
"""Events of a stream, grouped by the token that brings them."""

T = TypeVar("T")

encode: Final = msgspec.json.Encoder().encode

__all__ = [
    "DONE",
    "StreamOptions",
    "Ticks",
    "budget",
    "decode",
    "encode",
    "logprob",
    "logprob_of",
    "now",
    "prompts_of",
    "resolve_model",
    "send_plain",
    "send_stream",
    "settle",
    "sse",
    "stop_strings",
    "text_of",
    "usage_fields",
]


class StreamOptions(msgspec.Struct):
    """What a stream tells besides its text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


def decode(decoder: msgspec.json.Decoder[T], exchange: Exchange) -> T:
    """Return the request's body, or raise the 400 that vLLM answers."""
    try:
        return decoder.decode(exchange.request.body)
    except msgspec.DecodeError as exc:
        raise errors.ApiError(400, f"1 validation error: {exc}") from exc


def resolve_model(sim: Simulator, model: str | None) -> str:
    """Return the served name that a call asks for; the first one where it asks for none."""
    settings = sim.settings
    if model is None:
        return settings.models[0]
    if model in settings.models or any(model == lora.name for lora in settings.lora_adapters):
        return model
    raise errors.unknown_model(model)


def budget(sim: Simulator, prompt_tokens: int, max_tokens: int | None) -> int:
    """Return the most tokens that an answer may have."""
    room = sim.settings.max_model_len - prompt_tokens
    if max_tokens is not None and max_tokens < 1:
        message = f"max_tokens must be at least 1, got {max_tokens}."
        raise errors.ApiError(400, message, param="max_tokens")
    if room < 1 or (max_tokens is not None and max_tokens > room):
        raise errors.prompt_too_long(sim.settings.max_model_len, prompt_tokens, max_tokens or 0)
    return room if max_tokens is None else max_tokens


def stop_strings(stop: str | list[str] | None) -> Sequence[str]:
    """Return `stop` as a sequence."""
    if not stop:
        return ()
    return (stop,) if isinstance(stop, str) else stop


def text_of(content: Any) -> str:
    """Return the text of a message's content: a string, or parts of which some have text.

    A part without text, such as a picture, counts as a mark that says its type.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "".join(_part_text(part) for part in content)


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        return ""
    text = part.get("text")
    if isinstance(text, str):
        return text
    if "content" in part:
        return text_of(part["content"])
    return f"<{part.get('type', 'part')}>"


def prompts_of(given: str | list[Any], *, param: str) -> list[str]:
    """Return the prompts of a call: a string, token ids, or a list of either."""
    if isinstance(given, str):
        return [given]
    if given and all(type(item) is int for item in given):
        return [_ids_text(given, param)]
    texts = [item if isinstance(item, str) else _ids_text(item, param) for item in given]
    if not texts:
        raise errors.ApiError(400, f"{param} must not be empty", param=param)
    return texts


def _ids_text(ids: Any, param: str) -> str:
    try:
        return tokenizer.decode(msgspec.convert(ids, list[int]))
    except (msgspec.ValidationError, ValueError) as exc:
        raise errors.ApiError(400, f"{param}: {exc}", param=param) from exc


def usage_fields(prompt: int, completion: int) -> dict[str, Any]:
    """Return usage as OpenAI words it."""
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion,
        "completion_tokens": completion,
        "prompt_tokens_details": None,
    }


def now() -> int:
    """Return seconds since 1970, for fields called `created`."""
    return int(time.time())


def send_plain(
    sim: Simulator,
    exchange: Exchange,
    body: bytes,
    *,
    tokens: int = 0,
    content_type: str = JSON,
) -> None:
    """Answer with `body` once an engine at our pace would have made `tokens` tokens."""
    work = PlainWork(sim.engine, exchange, body, tokens=tokens, content_type=content_type)
    sim.engine.submit(exchange, work)


def send_stream(sim: Simulator, exchange: Exchange, ticks: Ticks) -> None:
    """Answer with a stream. As vLLM does, its head goes out before a slot is free."""
    exchange.begin()
    engine = sim.engine
    burst = 1 if isinstance(exchange, SpoiledExchange) else engine.burst
    engine.submit(exchange, StreamWork(engine, exchange, ticks, burst=burst))
    if exchange.slot == "waiting":
        exchange.flush()


def logprob(piece: str, top: int | None) -> dict[str, Any]:
    """Return the log probability of a token, with `top` others beside it."""
    own = _one_logprob(piece, logprob_of(piece))
    others = [
        _one_logprob(" " + word, own["logprob"] - 1.0 - place)
        for place, word in enumerate(WORDS[: max(0, (top or 0) - 1)])
    ]
    return {**own, "top_logprobs": [own, *others] if top else []}


def logprob_of(piece: str) -> float:
    """Return the log probability that a token is given, the same each time."""
    return -(crc32(piece.encode("utf-8", "replace")) % 500) / 1000


def _one_logprob(piece: str, value: float) -> dict[str, Any]:
    return {"token": piece, "logprob": value, "bytes": list(piece.encode())}


def sse(kind: str, fields: Mapping[str, Any]) -> bytes:
    """Return an event with a type of its own, as Anthropic and the Responses route have them."""
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(fields))


def settle(sim: Simulator, prompt_tokens: int, answers: Sequence[Answer]) -> None:
    """Count a finished call for `/metrics`."""
    finishes = [(answer.finish, answer.token_count) for answer in answers]
    sim.engine.settle(prompt_tokens, finishes)
