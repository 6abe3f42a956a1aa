"""POST /v1/messages and /v1/messages/count_tokens: the Anthropic shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.testing.simulator import tokenizer, tools
from first_core.testing.simulator.calls import (
    budget,
    decode,
    encode,
    resolve_model,
    send_plain,
    send_stream,
    settle,
    sse,
)
from first_core.testing.simulator.errors import AnthropicError, ApiError
from first_core.testing.simulator.generation import Order
from first_core.testing.simulator.routes.chat import Message, last_user_text, rendered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler, Ticks
    from first_core.testing.simulator.generation import Answer
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

_STOP_REASONS: Final = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class AnthropicTool(msgspec.Struct):
    """A tool on offer."""

    name: str
    input_schema: dict[str, Any] | None = None


class CountRequest(msgspec.Struct, kw_only=True):
    """A conversation to count."""

    messages: list[Message]
    model: str | None = None
    system: Any = None


class MessagesRequest(CountRequest, kw_only=True):
    """The fields that change an answer; all others are ignored."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: dict[str, Any] | None = None


_decoder: Final = msgspec.json.Decoder(MessagesRequest)
_count_decoder: Final = msgspec.json.Decoder(CountRequest)


def messages(sim: Simulator, exchange: Exchange) -> None:
    """Answer a call in the Anthropic shape."""
    try:
        _messages(sim, exchange)
    except ApiError as exc:
        raise AnthropicError(exc.status, exc.message, kind=exc.kind) from exc


def count_tokens(sim: Simulator, exchange: Exchange) -> None:
    """Count the tokens of a prompt."""
    try:
        request = decode(_count_decoder, exchange)
        resolve_model(sim, request.model)
        count = tokenizer.count(_prompt(request))
    except ApiError as exc:
        raise AnthropicError(exc.status, exc.message, kind=exc.kind) from exc
    exchange.plain(200, encode({"input_tokens": count}))


def _prompt(request: CountRequest) -> str:
    system = [Message("system", request.system)] if request.system else []
    return rendered([*system, *request.messages], unfinished=False)


def _messages(sim: Simulator, exchange: Exchange) -> None:
    request = decode(_decoder, exchange)
    if not request.messages:
        raise ApiError(400, "messages must not be empty", param="messages")
    model = resolve_model(sim, request.model)
    prompt_tokens = tokenizer.count(_prompt(request))
    limit = budget(sim, prompt_tokens, request.max_tokens)
    function = _chosen(sim, request)
    if function is None:
        order = Order(limit=limit, stop=request.stop_sequences or ())
        answer = sim.generator.answer(last_user_text(request.messages), order)
    else:
        answer = tools.call(function, limit=limit, finish="tool_calls")
    frame = {
        "id": "chatcmpl-" + sim.next_id(exchange.request),
        "type": "message",
        "role": "assistant",
        "model": model,
    }
    if request.stream:
        send_stream(sim, exchange, _ticks(sim, frame, prompt_tokens, answer, function))
        return
    body = {
        **frame,
        "content": [_block(frame, answer, function)],
        "stop_reason": _STOP_REASONS[answer.finish],
        "stop_sequence": None,
        "usage": _usage(prompt_tokens, answer.token_count),
    }
    settle(sim, prompt_tokens, [answer])
    send_plain(sim, exchange, encode(body), tokens=answer.token_count)


def _chosen(sim: Simulator, request: MessagesRequest) -> tools.Function | None:
    functions = [tools.Function(tool.name, tool.input_schema) for tool in request.tools or ()]
    choice = (request.tool_choice or {}).get("type", "auto")
    if choice == "tool":
        return tools.named(functions, (request.tool_choice or {}).get("name", ""))
    if functions and (choice == "any" or (choice == "auto" and sim.settings.answer_auto_tools)):
        return functions[0]
    return None


def _usage(prompt_tokens: int, output_tokens: int) -> dict[str, int]:
    return {"input_tokens": prompt_tokens, "output_tokens": output_tokens}


def _block(
    frame: dict[str, Any], answer: Answer, function: tools.Function | None
) -> dict[str, Any]:
    if function is None:
        return {"type": "text", "text": answer.text}
    try:
        given = msgspec.json.decode(answer.text)
    except msgspec.DecodeError:
        # Cut by the token limit.
        given = {}
    return {"type": "tool_use", "id": _tool_id(frame), "name": function.name, "input": given}


def _tool_id(frame: dict[str, Any]) -> str:
    return f"toolu_{frame['id']}"


def _ticks(
    sim: Simulator,
    frame: dict[str, Any],
    prompt_tokens: int,
    answer: Answer,
    function: tools.Function | None,
) -> Ticks:
    start = {
        **frame,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(prompt_tokens, 0),
    }
    block: dict[str, Any] = {"type": "text", "text": ""}
    kind, key = b"text_delta", b"text"
    if function is not None:
        block = {"type": "tool_use", "id": _tool_id(frame), "name": function.name, "input": {}}
        kind, key = b"input_json_delta", b"partial_json"
    events = [
        sse("message_start", {"type": "message_start", "message": start}),
        sse(
            "content_block_start",
            {"type": "content_block_start", "index": 0, "content_block": block},
        ),
    ]
    before = (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
        b'"delta":{"type":"%b","%b":"'
    ) % (kind, key)
    for piece in answer.pieces:
        events.append(before + sim.generator.escaped(piece) + b'"}}\n\n')
        yield events
        events = []
    ending = {"stop_reason": _STOP_REASONS[answer.finish], "stop_sequence": None}
    usage = _usage(prompt_tokens, answer.token_count)
    yield [
        *events,
        sse("content_block_stop", {"type": "content_block_stop", "index": 0}),
        sse("message_delta", {"type": "message_delta", "delta": ending, "usage": usage}),
        sse("message_stop", {"type": "message_stop"}),
    ]
    settle(sim, prompt_tokens, [answer])


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/messages": {"POST": messages},
    "/v1/messages/count_tokens": {"POST": count_tokens},
}
