"""Embeddings, reranking and scores: numbers that follow from the text alone."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from first_core.testing.simulator import tokenizer
from first_core.testing.simulator.calls import (
    decode,
    encode,
    now,
    prompts_of,
    resolve_model,
    send_plain,
    text_of,
    usage_fields,
)
from first_core.testing.simulator.errors import ApiError, prompt_too_long
from first_core.testing.simulator.routes.chat import Message, rendered

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from first_core.testing.simulator.calls import Handler
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

MAX_DIMENSIONS: Final = 8192


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """The fields that change an answer; all others are ignored."""

    input: str | list[Any] | None = None
    messages: list[Message] | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None


class RerankRequest(msgspec.Struct, kw_only=True):
    """A query and the documents to order by it."""

    query: Any
    documents: list[Any]
    model: str | None = None
    top_n: int | None = None


class ScoreRequest(msgspec.Struct, kw_only=True):
    """Pairs to score, under their older and their newer names."""

    text_1: Any = None
    text_2: Any = None
    queries: Any = None
    documents: Any = None
    model: str | None = None


_embedding_decoder: Final = msgspec.json.Decoder(EmbeddingRequest)
_rerank_decoder: Final = msgspec.json.Decoder(RerankRequest)
_score_decoder: Final = msgspec.json.Decoder(ScoreRequest)


def embeddings(sim: Simulator, exchange: Exchange) -> None:
    """Answer with one vector of length 1 per input."""
    request = decode(_embedding_decoder, exchange)
    model = resolve_model(sim, request.model)
    if request.messages:
        texts = [rendered(request.messages, unfinished=True)]
    else:
        texts = prompts_of(request.input or [], param="input")
    size = sim.settings.embedding_dimension_count
    if request.dimensions is not None:
        size = request.dimensions
    if not 0 < size <= MAX_DIMENSIONS:
        message = f"dimensions must be between 1 and {MAX_DIMENSIONS}, got {size}."
        raise ApiError(400, message, param="dimensions")
    data = [
        {
            "index": index,
            "object": "embedding",
            "embedding": _embedding(text, size, base64_wanted=request.encoding_format == "base64"),
        }
        for index, text in enumerate(texts)
    ]
    body = {
        "id": "embd-" + sim.next_id(exchange.request),
        "object": "list",
        "created": now(),
        "model": model,
        "data": data,
        "usage": usage_fields(_counted(sim, texts), 0),
    }
    send_plain(sim, exchange, encode(body))


def vector(text: str, size: int) -> list[float]:
    """Return a vector of length 1 with `size` parts, the same for the same text."""
    raw = hashlib.shake_128(text.encode("utf-8", "replace")).digest(2 * size)
    parts = struct.unpack(f"<{size}h", raw)
    length = math.hypot(*parts) or 1.0
    return [part / length for part in parts]


def _embedding(text: str, size: int, *, base64_wanted: bool) -> list[float] | str:
    parts = vector(text, size)
    if not base64_wanted:
        return parts
    return base64.b64encode(struct.pack(f"<{size}f", *parts)).decode()


def _counted(sim: Simulator, texts: Sequence[str]) -> int:
    counts = [tokenizer.count(text) for text in texts]
    if max(counts) > sim.settings.max_model_len:
        raise prompt_too_long(sim.settings.max_model_len, max(counts), 0)
    sim.engine.settle(sum(counts), ())
    return sum(counts)


def score_of(query: str, document: str) -> float:
    """Return a score in 0 to 1: the share of the query's words in the document, and a little more.

    The little more makes scores of different documents differ.
    """
    words = set(query.lower().split())
    found = len(words & set(document.lower().split())) / max(1, len(words))
    noise = hashlib.sha256(f"{query}\0{document}".encode("utf-8", "replace")).digest()[0] / 255
    return round(0.9 * found + 0.1 * noise, 6)


def rerank(sim: Simulator, exchange: Exchange) -> None:
    """Answer with the documents, best first."""
    request = decode(_rerank_decoder, exchange)
    model = resolve_model(sim, request.model)
    query = text_of(request.query)
    documents = [_document_text(document) for document in request.documents]
    if not documents:
        raise ApiError(400, "documents must not be empty", param="documents")
    tokens = _counted(sim, [query + document for document in documents])
    results = [
        {
            "index": index,
            "document": {"text": text, "multi_modal": None},
            "relevance_score": score_of(query, text),
        }
        for index, text in enumerate(documents)
    ]
    results.sort(key=_relevance, reverse=True)
    body = {
        "id": "rerank-" + sim.next_id(exchange.request),
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results[: request.top_n or len(results)],
    }
    send_plain(sim, exchange, encode(body))


def _relevance(result: dict[str, Any]) -> float:
    score: float = result["relevance_score"]
    return score


def _document_text(document: Any) -> str:
    if isinstance(document, dict):
        return text_of(document.get("content", document.get("text")))
    return text_of(document)


def score(sim: Simulator, exchange: Exchange) -> None:
    """Answer with a score per pair: one query to each document, or one to one."""
    request = decode(_score_decoder, exchange)
    model = resolve_model(sim, request.model)
    first = request.queries if request.text_1 is None else request.text_1
    second = request.documents if request.text_2 is None else request.text_2
    queries, documents = _texts(first), _texts(second)
    if len(queries) == 1:
        queries *= len(documents)
    if not queries or len(queries) != len(documents):
        raise ApiError(400, "Input lengths must be either 1:1, 1:N or N:N")
    pairs = list(zip(queries, documents, strict=True))
    body = {
        "id": "score-" + sim.next_id(exchange.request),
        "object": "list",
        "created": now(),
        "model": model,
        "data": [
            {"index": index, "object": "score", "score": score_of(query, document)}
            for index, (query, document) in enumerate(pairs)
        ],
        "usage": usage_fields(_counted(sim, [query + text for query, text in pairs]), 0),
    }
    send_plain(sim, exchange, encode(body))


def _texts(given: Any) -> list[str]:
    if given is None:
        return []
    return [_document_text(item) for item in (given if isinstance(given, list) else [given])]


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/embeddings": {"POST": embeddings},
    "/v1/rerank": {"POST": rerank},
    "/v2/rerank": {"POST": rerank},
    "/rerank": {"POST": rerank},
    "/v1/score": {"POST": score},
    "/score": {"POST": score},
}
