"""POST /v1/audio/transcriptions: multipart in, a transcript that follows from the file out."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from first_core.testing.simulator.calls import (
    DONE,
    encode,
    now,
    resolve_model,
    send_plain,
    send_stream,
    settle,
    usage_fields,
)
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.generation import Order

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler, Ticks
    from first_core.testing.simulator.generation import Answer
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

BYTES_PER_S: Final = 32_000
"""A second of sound counts as that many bytes: 16 kHz, 16 bit, one channel."""

TOKENS_PER_S: Final = 50


def transcriptions(sim: Simulator, exchange: Exchange) -> None:
    """Answer a transcription call."""
    request = exchange.request
    form = read_form(request.headers.get("content-type", ""), request.body)
    sound = form.get("file")
    if not sound:
        raise ApiError(400, "1 validation error: field `file` is required", param="file")
    model = resolve_model(sim, _field(form, "model"))
    answer_format = _field(form, "response_format") or "json"
    if answer_format not in {"json", "text"}:
        raise ApiError(400, f"Currently we do not support response_format={answer_format!r}")
    seconds = max(1, -(-len(sound) // BYTES_PER_S))
    order = Order(limit=sim.settings.max_model_len)
    answer = sim.generator.answer(sha256(sound).hexdigest(), order)
    if (_field(form, "stream") or "false").lower() in {"true", "1"}:
        frame = {
            "id": "trsc-" + sim.next_id(request),
            "object": "transcription.chunk",
            "created": now(),
            "model": model,
        }
        wants_usage = (_field(form, "stream_include_usage") or "false").lower() in {"true", "1"}
        prompt_tokens = seconds * TOKENS_PER_S
        usage = usage_fields(prompt_tokens, answer.token_count) if wants_usage else None
        send_stream(sim, exchange, _ticks(sim, frame, prompt_tokens, answer, usage))
        return
    settle(sim, seconds * TOKENS_PER_S, [answer])
    if answer_format == "text":
        text = answer.text.encode()
        kind = "text/plain; charset=utf-8"
        send_plain(sim, exchange, text, tokens=answer.token_count, content_type=kind)
        return
    body = {"text": answer.text, "usage": {"type": "duration", "seconds": seconds}}
    send_plain(sim, exchange, encode(body), tokens=answer.token_count)


def _ticks(
    sim: Simulator,
    frame: dict[str, Any],
    prompt_tokens: int,
    answer: Answer,
    usage: dict[str, Any] | None,
) -> Ticks:
    for piece in answer.pieces:
        choice = {"delta": {"content": piece}, "finish_reason": None, "stop_reason": None}
        yield (b"data: %b\n\n" % encode({**frame, "choices": [choice]}),)
    final = {"delta": {"content": ""}, "finish_reason": answer.finish, "stop_reason": None}
    events = [b"data: %b\n\n" % encode({**frame, "choices": [final]})]
    if usage is not None:
        events.append(b"data: %b\n\n" % encode({**frame, "choices": [], "usage": usage}))
    yield [*events, DONE]
    settle(sim, prompt_tokens, [answer])


def _field(form: Mapping[str, bytes], name: str) -> str | None:
    value = form.get(name)
    return None if value is None else value.decode("utf-8", "replace").strip()


def read_form(content_type: str, body: bytes) -> dict[str, bytes]:
    """Return the fields of a `multipart/form-data` body; of a repeated field the last.

    Raises:
        ApiError: It is no such body.
    """
    kind, _, parameters = content_type.partition(";")
    boundary = ""
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "boundary":
            boundary = value.strip('"')
    if kind.strip().lower() != "multipart/form-data" or not boundary:
        raise ApiError(400, "1 validation error: a multipart/form-data body is required")
    fields: dict[str, bytes] = {}
    for section in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("latin-1"))[1:]:
        head, found, content = section.partition(b"\r\n\r\n")
        if found:
            fields[_part_name(head)] = content
    return fields


def _part_name(head: bytes) -> str:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            for item in value.split(";"):
                name, _, given = item.strip().partition("=")
                if name.lower() == "name":
                    return given.strip('"')
    return ""


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/audio/transcriptions": {"POST": transcriptions},
}
