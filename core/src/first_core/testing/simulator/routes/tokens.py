"""POST /tokenize and /detokenize."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from first_core.testing.simulator import tokenizer
from first_core.testing.simulator.calls import decode, encode, resolve_model
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.routes.chat import Message, rendered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text or a conversation to cut into tokens."""

    prompt: str | None = None
    messages: list[Message] | None = None
    model: str | None = None
    return_token_strs: bool | None = None
    continue_final_message: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Token ids to put together."""

    tokens: list[int]
    model: str | None = None


_tokenize_decoder: Final = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder: Final = msgspec.json.Decoder(DetokenizeRequest)


def tokenize(sim: Simulator, exchange: Exchange) -> None:
    """Answer with the tokens of a prompt."""
    request = decode(_tokenize_decoder, exchange)
    resolve_model(sim, request.model)
    if request.messages:
        text = rendered(request.messages, unfinished=bool(request.continue_final_message))
    elif request.prompt is not None:
        text = request.prompt
    else:
        raise ApiError(400, "Either prompt or messages must be given", param="prompt")
    ids = tokenizer.encode(text)
    body = {
        "count": len(ids),
        "max_model_len": sim.settings.max_model_len,
        "tokens": ids,
        "token_strs": tokenizer.pieces(text) if request.return_token_strs else None,
    }
    exchange.plain(200, encode(body))


def detokenize(sim: Simulator, exchange: Exchange) -> None:
    """Answer with the text of tokens."""
    request = decode(_detokenize_decoder, exchange)
    resolve_model(sim, request.model)
    try:
        text = tokenizer.decode(request.tokens)
    except ValueError as exc:
        raise ApiError(400, str(exc), param="tokens") from exc
    exchange.plain(200, encode({"prompt": text}))


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/tokenize": {"POST": tokenize},
    "/detokenize": {"POST": detokenize},
}
