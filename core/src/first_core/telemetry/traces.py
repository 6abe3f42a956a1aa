"""Trace context by hand, and spans that cost next to nothing unless they are sampled.

The OpenTelemetry SDK stands behind `first_core.telemetry.export`, which is imported only where
spans are exported: parsing by hand and making SDK spans only when sampled saves some 80 µs a call
against the SDK's propagator and sampler.
"""

from __future__ import annotations

import enum
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

AttributeValue: TypeAlias = "str | bool | int | float | Sequence[str]"

MAX_TRACESTATE_CHARS: Final = 512
"""Longest `tracestate` that is passed on; a longer one is dropped whole. Source: W3C Trace Context,
3.3.1.5 "tracestate Limits", asks to pass on at least 512 characters."""

_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<rest>-.*)?",
    re.ASCII,
)
_TRACESTATE: Final = re.compile(r"[\x20-\x7e\t]*", re.ASCII)
_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in which trace we stand, as W3C Trace Context carries it.

    `trace_id` is 32 and `span_id` 16 lower-case hexadecimal digits, neither all zero.
    """

    trace_id: str
    span_id: str
    sampled: bool
    tracestate: str = ""

    @classmethod
    def parse(cls, traceparent: str, tracestate: str = "") -> TraceContext | None:
        """Read the two headers.

        Args:
            traceparent: As the client sent it.
            tracestate: As the client sent it; several headers are joined by commas. One that is
                too long or has control characters is dropped, which the standard allows.

        Returns:
            The context, or `None` where `traceparent` is not valid: then a new trace begins.
            A version after 00 is read as far as 00 goes. Source: W3C Trace Context, 3.2 and 4.
        """
        match = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
        if match is None:
            return None
        version, trace_id, span_id, flags, rest = match.groups()
        if version == "ff" or (version == "00" and rest is not None):
            return None
        if trace_id == _NO_TRACE or span_id == _NO_SPAN:
            return None
        return cls(trace_id, span_id, bool(int(flags, 16) & 1), _clean_state(tracestate))

    @property
    def traceparent(self) -> str:
        """Text of the header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def _clean_state(tracestate: str) -> str:
    if not tracestate:
        return ""
    valid = len(tracestate) <= MAX_TRACESTATE_CHARS and _TRACESTATE.fullmatch(tracestate)
    return tracestate.strip(" \t,") if valid else ""


class SpanKind(enum.Enum):
    """Which side of a request a span describes."""

    SERVER = "server"
    CLIENT = "client"
    INTERNAL = "internal"


class Span(Protocol):
    """One timed piece of work."""

    @property
    def context(self) -> TraceContext:
        """What children and the next process get as their parent."""

    def set(self, key: str, value: AttributeValue) -> None:
        """Set one attribute; never a prompt, an answer or a credential. After `end`: ignored."""

    def end(self, error_type: str | None = None) -> None:
        """End the span; repeating it changes nothing.

        Args:
            error_type: Why the work failed; `None` or empty: it did not.
        """


class UnrecordedSpan:
    """Carries a context and records nothing."""

    __slots__ = ("context",)

    def __init__(self, context: TraceContext) -> None:
        self.context = context

    def set(self, key: str, value: AttributeValue) -> None:
        """Do nothing."""

    def end(self, error_type: str | None = None) -> None:
        """Do nothing."""


class SpanMaker(Protocol):
    """Makes recorded spans."""

    def __call__(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None,
        attributes: Mapping[str, AttributeValue] | None,
    ) -> Span:
        """Begin a span that will be exported."""


class Tracer:
    """Decides which spans are recorded.

    A parent's decision holds; without a parent the ratio decides (ParentBased with a ratio at the
    root, in OpenTelemetry's words).

    Args:
        sample_ratio: Share of new traces that are recorded, 0 to 1.
        record: Makes recorded spans; `None`: nothing is exported.
        draw: Returns random numbers in [0, 1).
    """

    def __init__(
        self,
        sample_ratio: float,
        record: SpanMaker | None,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._sample_ratio = sample_ratio
        self._record = record
        self._draw = draw

    def span(
        self,
        name: str,
        *,
        kind: SpanKind,
        parent: TraceContext | None,
        attributes: Mapping[str, AttributeValue] | None = None,
    ) -> Span:
        """Begin a span; see `Telemetry.span`."""
        record = self._record
        if record is None:
            return UnrecordedSpan(_pass_on(parent))
        if parent.sampled if parent else self._draw() < self._sample_ratio:
            return record(name, kind=kind, parent=parent, attributes=attributes)
        return UnrecordedSpan(_unsampled(parent))


def _pass_on(parent: TraceContext | None) -> TraceContext:
    # We take no part in the trace: a span id of our own that nobody exports would tear apart a
    # trace that others do record.
    if parent is not None and parent.sampled:
        return parent
    return _unsampled(parent)


def _unsampled(parent: TraceContext | None) -> TraceContext:
    # Ids need to be unlike each other, not secret; `random` is three times as fast as `os.urandom`.
    span_id = f"{random.getrandbits(64) or 1:016x}"
    if parent is None:
        return TraceContext(f"{random.getrandbits(128) or 1:032x}", span_id, sampled=False)
    return TraceContext(parent.trace_id, span_id, sampled=False, tracestate=parent.tracestate)
