"""POST /v1/completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.testing.simulator import tokenizer
from first_core.testing.simulator.calls import (
    DONE,
    StreamOptions,
    budget,
    decode,
    encode,
    logprob_of,
    now,
    prompts_of,
    resolve_model,
    send_plain,
    send_stream,
    settle,
    stop_strings,
    usage_fields,
)
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.generation import WORDS, Order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler, Ticks
    from first_core.testing.simulator.generation import Answer
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator


class CompletionRequest(msgspec.Struct, kw_only=True):
    """The fields that change an answer; all others are ignored."""

    prompt: str | list[Any]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = 16
    """vLLM's default; null means as many as fit."""
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logprobs: int | None = None
    echo: bool | None = None
    suffix: str | None = None


_decoder: Final = msgspec.json.Decoder(CompletionRequest)


@dataclass(slots=True)
class _Completion:
    frame: dict[str, Any]
    prompts: list[str]
    prompt_tokens: int
    answers: list[Answer]
    """Those to the first prompt, then those to the second, and so on."""

    def usage(self) -> dict[str, Any]:
        return usage_fields(self.prompt_tokens, sum(a.token_count for a in self.answers))

    def prompt_of(self, index: int) -> str:
        return self.prompts[index * len(self.prompts) // len(self.answers)]


def _read(sim: Simulator, exchange: Exchange) -> tuple[CompletionRequest, _Completion]:
    request = decode(_decoder, exchange)
    if request.suffix:
        raise ApiError(400, "suffix is not currently supported", param="suffix")
    model = resolve_model(sim, request.model)
    prompts = prompts_of(request.prompt, param="prompt")
    frame = {
        "id": "cmpl-" + sim.next_id(exchange.request),
        "object": "text_completion",
        "created": now(),
        "model": model,
    }
    completion = _Completion(frame, prompts, 0, [])
    for prompt in prompts:
        prompt_tokens = tokenizer.count(prompt)
        completion.prompt_tokens += prompt_tokens
        order = Order(
            limit=budget(sim, prompt_tokens, request.max_tokens),
            seed=request.seed,
            stop=stop_strings(request.stop),
            keep_stop=bool(request.include_stop_str_in_output),
            ignore_eos=bool(request.ignore_eos),
            min_tokens=request.min_tokens or 0,
        )
        completion.answers += [
            sim.generator.answer(prompt, order, index=index) for index in range(request.n or 1)
        ]
    if not completion.answers:
        raise ApiError(400, "n must be at least 1.", param="n")
    return request, completion


def completions(sim: Simulator, exchange: Exchange) -> None:
    """Answer a completion call."""
    request, completion = _read(sim, exchange)
    if request.stream:
        send_stream(sim, exchange, _ticks(sim, request, completion))
        return
    choices = []
    for index, answer in enumerate(completion.answers):
        before = completion.prompt_of(index) if request.echo else ""
        choices.append(
            _choice(request, index, answer, before + answer.text, answer.pieces)
            | {"prompt_logprobs": None, "prompt_token_ids": None}
        )
    body = {
        **completion.frame,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": None,
        "usage": completion.usage(),
        "kv_transfer_params": None,
    }
    settle(sim, completion.prompt_tokens, completion.answers)
    tokens = max(answer.token_count for answer in completion.answers)
    send_plain(sim, exchange, encode(body), tokens=tokens)


def _choice(
    request: CompletionRequest, index: int, answer: Answer, text: str, pieces: list[str]
) -> dict[str, Any]:
    return {
        "index": index,
        "text": text,
        "logprobs": None if request.logprobs is None else _logprobs(pieces, request.logprobs),
        "finish_reason": answer.finish,
        "stop_reason": answer.stop_reason,
        "token_ids": None,
    }


def _logprobs(pieces: list[str], top: int) -> dict[str, Any]:
    offsets = [0]
    for piece in pieces:
        offsets.append(offsets[-1] + len(piece))
    values = [logprob_of(piece) for piece in pieces]
    others = [" " + word for word in WORDS[: max(0, top - 1)]]
    return {
        "text_offset": offsets[:-1],
        "token_logprobs": values,
        "tokens": pieces,
        "top_logprobs": [
            {piece: value} | dict.fromkeys(others, value - 1.0)
            for piece, value in zip(pieces, values, strict=True)
        ],
    }


def _ticks(sim: Simulator, request: CompletionRequest, completion: _Completion) -> Ticks:
    """Yield a token of each choice at a time; vLLM sends the null fields here, unlike in chat."""
    options = request.stream_options or StreamOptions()
    continuous = bool(options.include_usage and options.continuous_usage_stats)
    sent_tokens = 0
    events: list[bytes] = []
    longest = max(len(answer.pieces) for answer in completion.answers)
    for place in range(longest + 1):
        for index, answer in enumerate(completion.answers):
            piece = answer.piece_at(place)
            if piece is None:
                continue
            choice = _choice(request, index, answer, piece, [piece] if piece else [])
            if place == 0 and request.echo:
                choice["text"] = completion.prompt_of(index) + piece
            if not answer.ends_at(place):
                choice |= {"finish_reason": None, "stop_reason": None}
            sent_tokens += place < len(answer.pieces)
            usage = usage_fields(completion.prompt_tokens, sent_tokens) if continuous else None
            chunk = {**completion.frame, "choices": [choice], "usage": usage}
            events.append(b"data: %b\n\n" % encode(chunk))
        if place < longest and events:
            yield events
            events = []
    if options.include_usage:
        chunk = {**completion.frame, "choices": [], "usage": completion.usage()}
        events.append(b"data: %b\n\n" % encode(chunk))
    yield [*events, DONE]
    settle(sim, completion.prompt_tokens, completion.answers)


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/completions": {"POST": completions},
}
