"""POST /v1/chat/completions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from zlib import crc32

import msgspec

from first_core.testing.simulator import tokenizer, tools
from first_core.testing.simulator.calls import (
    DONE,
    StreamOptions,
    budget,
    decode,
    encode,
    logprob,
    now,
    resolve_model,
    send_plain,
    send_stream,
    settle,
    stop_strings,
    text_of,
    usage_fields,
)
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.generation import Order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from first_core.testing.simulator.calls import Handler, Ticks
    from first_core.testing.simulator.generation import Answer, Generator
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

MAX_CHOICES: Final = 128


class Message(msgspec.Struct):
    """One message of a conversation."""

    role: str
    content: Any = None


class Tool(msgspec.Struct):
    """A tool on offer."""

    function: tools.Function


class ChatRequest(msgspec.Struct, kw_only=True):
    """The fields that change an answer; all others are ignored, as vLLM does."""

    messages: list[Message]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


_decoder: Final = msgspec.json.Decoder(ChatRequest)


@dataclass(slots=True)
class Chat:
    """A chat call with its answers."""

    call_id: str
    created: int
    model: str
    prompt_tokens: int
    answers: list[Answer]
    function: str | None = None
    """Name of the function that each answer calls."""

    def usage(self) -> dict[str, Any]:
        """Return the usage of the whole call."""
        return usage_fields(self.prompt_tokens, sum(a.token_count for a in self.answers))


def rendered(messages: Sequence[Message], *, unfinished: bool) -> str:
    """Return the prompt that a chat template would make of a conversation."""
    text = "".join([f"<{message.role}>{text_of(message.content)}\n" for message in messages])
    return text[:-1] if unfinished else text + "<assistant>"


def last_user_text(messages: Sequence[Message]) -> str:
    """Return the text that the answer follows from."""
    for message in reversed(messages):
        if message.role == "user":
            return text_of(message.content)
    return text_of(messages[-1].content)


def chosen_function(
    request: ChatRequest, *, answer_auto: bool
) -> tuple[tools.Function, str] | None:
    """Return the function to call and the finish reason that vLLM gives for it, if any."""
    functions = [tool.function for tool in request.tools or ()]
    choice = request.tool_choice
    if isinstance(choice, dict):
        name = (choice.get("function") or choice).get("name", "")
        return tools.named(functions, name), "stop"
    if choice == "required" and not functions:
        raise ApiError(400, "When using `tool_choice`, `tools` must be set.", param="tool_choice")
    if choice == "required" or (functions and choice in {None, "auto"} and answer_auto):
        return functions[0], "tool_calls"
    return None


def _read(sim: Simulator, exchange: Exchange) -> tuple[ChatRequest, Chat]:
    request = decode(_decoder, exchange)
    messages = request.messages
    if not messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    model = resolve_model(sim, request.model)
    partial: str | None = None
    if request.continue_final_message:
        if request.add_generation_prompt:
            message = (
                "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            )
            raise ApiError(400, message)
        if messages[-1].role == "assistant":
            partial = text_of(messages[-1].content)
    prompt = rendered(messages, unfinished=partial is not None)
    prompt_tokens = tokenizer.count(prompt)
    max_tokens = request.max_completion_tokens
    limit = budget(sim, prompt_tokens, request.max_tokens if max_tokens is None else max_tokens)
    chat = Chat("chatcmpl-" + sim.next_id(exchange.request), now(), model, prompt_tokens, [])
    count = request.n or 1
    if not 0 < count <= MAX_CHOICES:
        raise ApiError(400, f"n must be between 1 and {MAX_CHOICES}, got {count}.", param="n")
    chosen = chosen_function(request, answer_auto=sim.settings.answer_auto_tools)
    if chosen is not None:
        function, finish = chosen
        chat.function = function.name
        chat.answers = [tools.call(function, limit=limit, finish=finish) for _ in range(count)]
        return request, chat
    order = Order(
        limit=limit,
        seed=request.seed,
        partial=partial,
        stop=stop_strings(request.stop),
        keep_stop=bool(request.include_stop_str_in_output),
        ignore_eos=bool(request.ignore_eos),
        min_tokens=request.min_tokens or 0,
    )
    key = last_user_text(messages)
    chat.answers = [sim.generator.answer(key, order, index=index) for index in range(count)]
    return request, chat


def chat_completions(sim: Simulator, exchange: Exchange) -> None:
    """Answer a chat call."""
    request, chat = _read(sim, exchange)
    if request.stream:
        simple = (
            len(chat.answers) == 1
            and chat.function is None
            and not request.logprobs
            and not (request.stream_options and request.stream_options.continuous_usage_stats)
        )
        ticks = _text_ticks(sim, request, chat) if simple else _ticks(sim, request, chat)
        send_stream(sim, exchange, ticks)
        return
    body = _whole(sim.generator, request, chat)
    settle(sim, chat.prompt_tokens, chat.answers)
    send_plain(sim, exchange, body, tokens=max(a.token_count for a in chat.answers))


def _whole(generator: Generator, request: ChatRequest, chat: Chat) -> bytes:
    if len(chat.answers) == 1 and chat.function is None and not request.logprobs:
        return _simple_whole(generator, chat)
    choices = [_choice(request, chat, index, answer) for index, answer in enumerate(chat.answers)]
    return encode(
        {
            "id": chat.call_id,
            "object": "chat.completion",
            "created": chat.created,
            "model": chat.model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": None,
            "usage": chat.usage(),
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "kv_transfer_params": None,
        }
    )


def _simple_whole(generator: Generator, chat: Chat) -> bytes:
    answer = chat.answers[0]
    completion = answer.token_count
    return (
        b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"%b","refusal":null,"annotations":null,'
        b'"audio":null,"function_call":null,"tool_calls":[],"reasoning":null},"logprobs":null,'
        b'"finish_reason":"%b","stop_reason":%b,"token_ids":null}],"service_tier":null,'
        b'"system_fingerprint":null,"usage":{"prompt_tokens":%d,"total_tokens":%d,'
        b'"completion_tokens":%d,"prompt_tokens_details":null},"prompt_logprobs":null,'
        b'"prompt_token_ids":null,"kv_transfer_params":null}'
    ) % (
        encode(chat.call_id),
        chat.created,
        encode(chat.model),
        b"".join([generator.escaped(piece) for piece in answer.pieces]),
        answer.finish.encode(),
        encode(answer.stop_reason),
        chat.prompt_tokens,
        chat.prompt_tokens + completion,
        completion,
    )


def _choice(request: ChatRequest, chat: Chat, index: int, answer: Answer) -> dict[str, Any]:
    calls: list[dict[str, Any]] = []
    if chat.function is not None:
        call = {"name": chat.function, "arguments": answer.text}
        calls.append({"id": _tool_id(chat, index), "type": "function", "function": call})
    logprobs = None
    if request.logprobs:
        logprobs = {"content": [logprob(piece, request.top_logprobs) for piece in answer.pieces]}
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": None if calls else answer.text,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "tool_calls": calls,
            "reasoning": None,
        },
        "logprobs": logprobs,
        "finish_reason": answer.finish,
        "stop_reason": answer.stop_reason,
        "token_ids": None,
    }


def _tool_id(chat: Chat, index: int) -> str:
    return f"chatcmpl-tool-{crc32(f'{chat.call_id}/{index}'.encode()):08x}"


def _wants_usage(request: ChatRequest) -> bool:
    return bool(request.stream_options and request.stream_options.include_usage)


def _text_ticks(sim: Simulator, request: ChatRequest, chat: Chat) -> Ticks:
    """Yield what `_ticks` yields for one choice of plain text, at a fraction of its cost."""
    answer = chat.answers[0]
    escaped = sim.generator.escaped
    start = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,' % (
        encode(chat.call_id),
        chat.created,
        encode(chat.model),
    )
    before = start + b'"choices":[{"index":0,"delta":{"content":"'
    after = b'"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
    ending = b'"},"logprobs":null,"finish_reason":"%b","stop_reason":%b,"token_ids":null}]}\n\n' % (
        answer.finish.encode(),
        encode(answer.stop_reason),
    )
    role = (
        start
        + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
        + b'"finish_reason":null}],"prompt_token_ids":null}\n\n'
    )
    pieces = answer.pieces
    last = pieces.pop() if answer.finish == "length" and pieces else ""
    head = [role]
    for piece in pieces:
        event = before + escaped(piece) + after
        if head:
            yield [*head, event]
            head = []
        else:
            yield (event,)
    final = [*head, before + escaped(last) + ending]
    if _wants_usage(request):
        final.append(start + b'"choices":[],"usage":%b}\n\n' % encode(chat.usage()))
    yield [*final, DONE]
    settle(sim, chat.prompt_tokens, chat.answers)


def _ticks(sim: Simulator, request: ChatRequest, chat: Chat) -> Ticks:
    """Yield the events of any chat stream: first the roles, then a token of each choice."""
    options = request.stream_options or StreamOptions()
    continuous = options.include_usage and options.continuous_usage_stats
    done_tokens = 0

    def event(choice: dict[str, Any], **more: Any) -> bytes:
        chunk = {**frame, "choices": [choice], **more}
        if continuous:
            chunk["usage"] = usage_fields(chat.prompt_tokens, done_tokens)
        return b"data: %b\n\n" % encode(chunk)

    frame = {
        "id": chat.call_id,
        "object": "chat.completion.chunk",
        "created": chat.created,
        "model": chat.model,
    }
    events = [
        event(
            {
                "index": index,
                "delta": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": None,
            },
            prompt_token_ids=None,
        )
        for index in range(len(chat.answers))
    ]
    longest = max(len(answer.pieces) for answer in chat.answers)
    for place in range(longest + 1):
        for index, answer in enumerate(chat.answers):
            piece = answer.piece_at(place)
            if piece is None:
                continue
            finished = place >= len(answer.pieces)
            done_tokens += not finished
            choice: dict[str, Any] = {
                "index": index,
                "delta": _delta(chat, index, piece, first=place == 0, last=finished),
                "logprobs": None,
                "finish_reason": None,
                "token_ids": None,
            }
            if request.logprobs and piece:
                choice["logprobs"] = {"content": [logprob(piece, request.top_logprobs)]}
            if answer.ends_at(place):
                ids = choice.pop("token_ids")
                choice |= {
                    "finish_reason": answer.finish,
                    "stop_reason": answer.stop_reason,
                    "token_ids": ids,
                }
            events.append(event(choice))
        if place < longest and events:
            yield events
            events = []
    if options.include_usage:
        usage = encode({**frame, "choices": [], "usage": chat.usage()})
        events.append(b"data: %b\n\n" % usage)
    yield [*events, DONE]
    settle(sim, chat.prompt_tokens, chat.answers)


def _delta(chat: Chat, index: int, piece: str, *, first: bool, last: bool) -> dict[str, Any]:
    if chat.function is None or last:
        return {"content": piece}
    call: dict[str, Any] = {"index": 0}
    if first:
        call |= {"id": _tool_id(chat, index), "type": "function"}
        call["function"] = {"name": chat.function, "arguments": piece}
    else:
        call["function"] = {"arguments": piece}
    return {"tool_calls": [call]}


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/chat/completions": {"POST": chat_completions},
}
