"""Ids and value objects, all frozen. This module imports nothing of ours."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Operation(enum.IntEnum):
    """What is asked of a model. Numbers equal `first.v1.Operation`."""

    CHAT = 1
    COMPLETION = 2
    EMBEDDING = 3
    RESPONSE = 4
    MESSAGE = 5
    RERANK = 6
    SCORE = 7
    TOKENIZE = 8
    DETOKENIZE = 9
    TRANSCRIPTION = 10
    MESSAGE_TOKEN_COUNT = 11

    @property
    def path(self) -> str:
        """Path of the operation, without a leading slash, below a server's root."""
        return OPERATION_PATHS[self]


OPERATION_PATHS: Final[dict[Operation, str]] = {
    Operation.CHAT: "v1/chat/completions",
    Operation.COMPLETION: "v1/completions",
    Operation.EMBEDDING: "v1/embeddings",
    Operation.RESPONSE: "v1/responses",
    Operation.MESSAGE: "v1/messages",
    Operation.MESSAGE_TOKEN_COUNT: "v1/messages/count_tokens",
    Operation.RERANK: "v1/rerank",
    Operation.SCORE: "v1/score",
    Operation.TOKENIZE: "tokenize",
    Operation.DETOKENIZE: "detokenize",
    Operation.TRANSCRIPTION: "v1/audio/transcriptions",
}
"""Where vLLM serves each operation. Source: vLLM documentation, "OpenAI-Compatible Server"."""


class EndpointState(enum.IntEnum):
    """Where an endpoint stands. Numbers equal `first.v1.EndpointState`."""

    COLD = 1
    QUEUED = 2
    STARTING = 3
    READY = 4
    DRAINING = 5
    DOWN = 6


@dataclass(frozen=True, slots=True, order=True)
class EndpointId:
    """Names one endpoint: one model served by one framework on one cluster.

    `replica` tells servers apart where several of one cluster and framework serve the model.
    """

    cluster: str
    framework: str
    model: str
    replica: str = ""

    def __str__(self) -> str:
        """Return `cluster/framework/model`, with `@replica` where there is one."""
        base = f"{self.cluster}/{self.framework}/{self.model}"
        return f"{base}@{self.replica}" if self.replica else base


@dataclass(frozen=True, slots=True)
class EndpointLoad:
    """How busy an endpoint is, as its engine tells. `None`: not told."""

    running_count: int | None = None
    waiting_count: int | None = None
    cache_usage_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """Restricts a call to some endpoints of its model; empty means any."""

    cluster: str = ""
    framework: str = ""
    replica: str = ""

    def fits(self, endpoint: EndpointId) -> bool:
        """Tell whether an endpoint is one of those."""
        return (
            self.cluster in ("", endpoint.cluster)
            and self.framework in ("", endpoint.framework)
            and self.replica in ("", endpoint.replica)
        )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and which tenant its limits and shares are charged to."""

    id: str
    tenant: str


ANYONE: Final = Principal("anyone", "default")
"""The caller of a gateway that asks nobody who they are, and therefore listens on loopback only."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call used, as the upstream told them."""

    input_token_count: int
    output_token_count: int
    cached_token_count: int = 0

    def __add__(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(
            self.input_token_count + other.input_token_count,
            self.output_token_count + other.output_token_count,
            self.cached_token_count + other.cached_token_count,
        )


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """What an upstream said when it refused a request.

    `status` is its HTTP status, `body` its error body byte for byte, empty when it was larger than
    `MAX_UPSTREAM_ERROR_BYTES`.
    """

    status: int
    content_type: str
    body: bytes


MAX_UPSTREAM_ERROR_BYTES: Final = 8 * 1024
"""Largest upstream error body that is passed on. It travels in gRPC trailing metadata, base64
encoded, and our channels allow 64 KiB of metadata there."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds of one attempt, in seconds; `None` means none."""

    connect_s: float = 5.0
    first_chunk_s: float | None = 600.0
    idle_s: float | None = 300.0
    total_s: float | None = None
