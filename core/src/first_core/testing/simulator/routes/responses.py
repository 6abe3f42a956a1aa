"""POST /v1/responses: whole, and as a stream of typed events."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.testing.simulator import tokenizer, tools
from first_core.testing.simulator.calls import (
    budget,
    decode,
    encode,
    now,
    resolve_model,
    send_plain,
    send_stream,
    settle,
    sse,
    text_of,
)
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.generation import Order
from first_core.testing.simulator.routes.chat import Message, last_user_text, rendered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler, Ticks
    from first_core.testing.simulator.generation import Answer
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator


class ResponsesTool(msgspec.Struct):
    """A tool on offer."""

    type: str
    name: str | None = None
    parameters: dict[str, Any] | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The fields that change an answer; all others are ignored."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    tools: list[ResponsesTool] | None = None
    tool_choice: str | dict[str, Any] | None = None


_decoder: Final = msgspec.json.Decoder(ResponsesRequest)


def responses(sim: Simulator, exchange: Exchange) -> None:
    """Answer a Responses call."""
    request = decode(_decoder, exchange)
    model = resolve_model(sim, request.model)
    conversation = _conversation(request)
    prompt_tokens = tokenizer.count(rendered(conversation, unfinished=False))
    limit = budget(sim, prompt_tokens, request.max_output_tokens)
    function = _chosen(sim, request)
    if function is None:
        answer = sim.generator.answer(last_user_text(conversation), Order(limit=limit))
    else:
        answer = tools.call(function, limit=limit, finish="stop")
    number = sim.next_id(exchange.request)
    response = {
        "id": f"resp_{number}",
        "created_at": now(),
        "incomplete_details": None,
        "instructions": request.instructions,
        "metadata": None,
        "model": model,
        "object": "response",
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": request.tool_choice or "auto",
        "tools": [],
        "top_p": 1.0,
        "background": False,
        "max_output_tokens": limit,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": "in_progress",
        "text": None,
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }
    item = _item(number, function)
    if request.stream:
        send_stream(sim, exchange, _ticks(sim, response, item, prompt_tokens, answer))
        return
    settle(sim, prompt_tokens, [answer])
    body = _completed(response, _filled(item, answer), prompt_tokens, answer)
    send_plain(sim, exchange, encode(body), tokens=answer.token_count)


def _conversation(request: ResponsesRequest) -> list[Message]:
    given = request.input
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    if not items:
        raise ApiError(400, "input must not be empty", param="input")
    messages = [Message("system", request.instructions)] if request.instructions else []
    for item in items:
        content = item.get("content", item.get("output", item.get("arguments")))
        messages.append(Message(str(item.get("role") or "tool"), text_of(content)))
    return messages


def _chosen(sim: Simulator, request: ResponsesRequest) -> tools.Function | None:
    functions = [
        tools.Function(tool.name, tool.parameters)
        for tool in request.tools or ()
        if tool.type == "function" and tool.name
    ]
    choice = request.tool_choice or "auto"
    if isinstance(choice, dict):
        return tools.named(functions, choice.get("name", ""))
    if functions and (
        choice == "required" or (choice == "auto" and sim.settings.answer_auto_tools)
    ):
        return functions[0]
    return None


def _item(number: str, function: tools.Function | None) -> dict[str, Any]:
    """Return the output item as it stands at its start."""
    if function is None:
        return {
            "id": f"msg_{number}",
            "content": [],
            "role": "assistant",
            "status": "in_progress",
            "type": "message",
        }
    return {
        "id": f"fc_{number}",
        "arguments": "",
        "call_id": f"call_{number}",
        "name": function.name,
        "status": "in_progress",
        "type": "function_call",
    }


def _part(text: str) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}


def _filled(item: dict[str, Any], answer: Answer) -> dict[str, Any]:
    status = {"status": "completed" if answer.finish == "stop" else "incomplete"}
    if item["type"] == "message":
        return item | status | {"content": [_part(answer.text)]}
    return item | status | {"arguments": answer.text}


def _completed(
    response: dict[str, Any], item: dict[str, Any], prompt_tokens: int, answer: Answer
) -> dict[str, Any]:
    cut = answer.finish == "length"
    return response | {
        "output": [item],
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "usage": {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.token_count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt_tokens + answer.token_count,
        },
    }


def _ticks(
    sim: Simulator,
    response: dict[str, Any],
    item: dict[str, Any],
    prompt_tokens: int,
    answer: Answer,
) -> Ticks:
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> bytes:
        return sse(kind, {"type": kind, "sequence_number": next(numbers), **fields})

    text = item["type"] == "message"
    filled = _filled(item, answer)
    place: dict[str, Any] = {"item_id": item["id"], "output_index": 0}
    events = [
        event("response.created", response=response),
        event("response.in_progress", response=response),
        event("response.output_item.added", output_index=0, item=item),
    ]
    if text:
        place["content_index"] = 0
        events.append(event("response.content_part.added", **place, part=_part("")))
    stem = "response.output_text" if text else "response.function_call_arguments"
    for piece in answer.pieces:
        more: dict[str, Any] = {"logprobs": []} if text else {}
        events.append(event(f"{stem}.delta", **place, delta=piece, **more))
        yield events
        events = []
    if text:
        events.append(event(f"{stem}.done", **place, text=answer.text, logprobs=[]))
        events.append(event("response.content_part.done", **place, part=_part(answer.text)))
    else:
        name = item["name"]
        events.append(event(f"{stem}.done", **place, name=name, arguments=answer.text))
    events.append(event("response.output_item.done", output_index=0, item=filled))
    whole = _completed(response, filled, prompt_tokens, answer)
    events.append(event("response.completed", response=whole))
    yield events
    settle(sim, prompt_tokens, [answer])


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/responses": {"POST": responses},
}
