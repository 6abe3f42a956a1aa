"""What a backend is: it reports endpoints, and runs calls on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeAlias

from first_core.types import (
    ANYONE,
    EndpointId,
    EndpointLoad,
    EndpointState,
    Operation,
    Principal,
    Timeouts,
)


@dataclass(frozen=True, slots=True)
class EndpointReport:
    """One endpoint as its backend sees it now."""

    id: EndpointId
    """Its name: the model in it is what clients ask for."""
    served_model: str
    """What the upstream calls the model; stands in the body that it gets."""
    operations: frozenset[Operation]
    """What it can be asked."""
    state: EndpointState
    """Where it stands."""
    state_reason: str = ""
    """Why, in a few words for a person; no secret, no credential."""
    owner: str = ""
    """Who made or serves the model, as the upstream tells."""
    context_window_token_count: int = 0
    """Largest prompt plus answer, in tokens; 0: not known."""
    expected_wait_s: float | None = None
    """Expected seconds until it is ready; `None`: it is, or nobody knows."""
    load: EndpointLoad | None = None
    """How busy the engine is; `None`: not known."""
    free_node_count: int | None = None
    """Idle nodes of its cluster; `None`: not known."""
    continues_messages: bool = False
    """Whether it continues an unfinished assistant message exactly, as vLLM does with
    `continue_final_message` and `add_generation_prompt: false`."""
    streams_usage: bool = True
    """Whether it understands `stream_options.include_usage`."""
    via: tuple[str, ...] = ()
    """Other gateways that a call to it passes, the nearest first; empty: none."""


Publish: TypeAlias = Callable[[Sequence[EndpointReport]], None]
"""Takes all endpoints of a backend as they stand now, replacing what it said before. Cheap; call
it from the event loop's thread whenever something changed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt of a call on one endpoint, ready to be sent."""

    operation: Operation
    """What is asked."""
    endpoint: EndpointId
    """Where; one of those that this backend published."""
    body: bytes = field(repr=False)
    """The body for the upstream, with its own name of the model in it; send it as it is."""
    content_type: str
    """`Content-Type` of the body."""
    headers: Mapping[str, str] = field(repr=False)
    """Headers for the upstream, lower case: allow-listed ones of the client, `traceparent`,
    `x-request-id`. Never a credential of the client."""
    timeouts: Timeouts
    """Bounds of this attempt."""
    principal: Principal = ANYONE
    """Who calls. For backends whose upstream is another gateway; other upstreams are not told."""
    hops: tuple[str, ...] = ()
    """Gateways that the call has passed, the first one first; for the same backends."""
    hop_budget: int | None = None
    """Most gateways that the call may pass, those in `hops` included, where it came from another
    gateway; for the same backends."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer, byte for byte."""

    body: bytes = field(repr=False)
    """The body."""
    content_type: str
    """`Content-Type` as the upstream sent it."""


class ChunkSink(Protocol):
    """Takes a streamed answer in order, whole events or parts of them."""

    def start(self, content_type: str) -> None:
        """Tell that the upstream accepted the call and answers with `content_type`.

        Called once, before the first `write`.
        """

    def write(self, data: bytes) -> bool:
        """Take the next bytes; never blocks.

        Returns:
            Whether the reader is behind: then `await drain()` before the next `write`.
        """

    async def drain(self) -> None:
        """Wait until the reader has caught up."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend declares; the contract kit tests what is declared."""

    streams: bool = True
    """`stream` works."""
    cancels_upstream: bool = True
    """Cancelling stops the work at the upstream."""
    follows_state: bool = False
    """It notices servers that come and go without a restart."""


class Backend(ABC):
    """Plugin code that reaches endpoints. One object serves all endpoints of its settings."""

    capabilities: ClassVar[Capabilities] = Capabilities()

    @abstractmethod
    async def start(self, publish: Publish) -> None:
        """Begin to find endpoints and to publish them.

        Returns soon: an upstream that does not answer is published as down and tried again
        behind. Settings that can never work raise `SettingsError`. May follow `stop`.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Close everything; safe to repeat. Calls in flight fail with `BackendUnavailableError`."""

    def wake(self, endpoint: EndpointId) -> None:  # noqa: B027 - most backends start nothing
        """Take note that a call waits for an endpoint that is cold; never blocks.

        A backend that can start it begins to, and publishes the states that it goes through.
        Called again while calls wait.
        """

    @abstractmethod
    async def call(self, call: Call) -> Answer:
        """Run one call and return its whole answer.

        Raises:
            UpstreamRejectedError: The upstream's 4xx, unchanged; nothing was started.
            LimitExceededError: The upstream's 429, with its `Retry-After`.
            OverloadedError: The upstream's 503, with its `Retry-After`.
            BackendTimeoutError: A bound of `call.timeouts` was hit.
            BackendUnavailableError: Everything else that went wrong at the upstream, an answer
                that is cut short or is no answer included.

        Cancelling the `asyncio.Task` stops the work at the endpoint.
        """

    @abstractmethod
    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink` as it arrives.

        The answer is a stream of server-sent events in the operation's own format. Whether it is
        complete, and what it used, the router reads from the bytes, in one place for all backends.
        Returns when the upstream ended the stream.

        Raises:
            StreamTruncatedError: The connection broke after at least one byte was written.
            FirstError: As `call`, before the first byte was written; `BackendTimeoutError` with
                `metadata["bound"] == "idle"` also after it.

        Cancelling the `asyncio.Task` stops the work at the endpoint.
        """
