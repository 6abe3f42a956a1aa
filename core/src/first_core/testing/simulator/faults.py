"""Faults on demand. Each acts on the socket; `spoil.py` says how.

`Simulator.faults.add(fault, times=…, path=…)` arms one. A fault without a path takes the next
POST to an inference route; with one it takes the next request to exactly that path, whatever
its method. Faults are taken in the order in which they were added. Events are counted from 1
as they stand on the wire: the role event of a chat stream is the first, `[DONE]` the last.
Faults that speak of events leave an answer that is no stream as it is, except `ErrorInside`.
"""

from __future__ import annotations

import asyncio  # noqa: TC003 - a field's type, read when a fault comes in as JSON
from collections.abc import Mapping  # noqa: TC003 - the same
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

import msgspec


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Base of all faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse(Fault):
    """Close the connection: at accept, or at the next request of one that is open already.

    At accept it takes whoever connects next; with a path only requests to that path.
    """

    reset: bool = True
    """By a TCP reset, as a port behind which nothing listens; else in good order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StallBeforeHead(Fault):
    """Send nothing until `gate` is set; forever without one."""

    gate: asyncio.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfterHead(Fault):
    """Send the head, then nothing until `gate` is set; forever without one."""

    gate: asyncio.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StallAfterEvents(Fault):
    """Send `count` events of a stream, then nothing until `gate` is set."""

    count: int
    gate: asyncio.Event | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatus(Fault):
    """Answer with an error status; without `body` in vLLM's error shape."""

    status: int
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    """Further headers, such as `{"retry-after": "2"}`."""
    message: str = "Simulated failure"
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorInside(Fault):
    """Answer 200 with an error in it: as body, or as first event of a stream and `[DONE]`."""

    status: int = 500
    message: str = "Simulated failure"
    after_events: int = 0
    """Events of a stream that go before the error; 0: it is the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage(Fault):
    """Answer something that is no answer."""

    kind: Literal["not_http", "html", "invalid_json"] = "not_http"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenEvent(Fault):
    """Put an event that is no JSON after `after` events of a stream that is good otherwise."""

    after: int = 1
    event: bytes = b'data: {"id": "broken", "choices": [\n\n'


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAfterBytes(Fault):
    """End after `count` bytes of the body.

    By closing the connection; `clean`: as if the body ended there; `reset`: by a TCP reset.
    """

    count: int
    clean: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CutAfterEvents(Fault):
    """End a stream after `count` events; `clean` and `reset` as in `CutAfterBytes`."""

    count: int
    clean: bool = False
    reset: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CutInsideCharacter(Fault):
    """End inside the first character of more than one byte; `clean` as in `CutAfterBytes`."""

    clean: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NoDone(Fault):
    """Send a complete stream without its end mark: `[DONE]`, or Anthropic's `message_stop`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneWithoutFinish(Fault):
    """Leave out the events that tell how the answer ended, and keep the end mark."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthMismatch(Fault):
    """Announce `by` bytes more than are sent, then close; below 0: fewer.

    In a stream the last chunk is the one that lies.
    """

    by: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow(Fault):
    """Send `size` bytes at a time, `interval_s` seconds apart."""

    interval_s: float = 0.01
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitWrites(Fault):
    """Cut the body at the offsets `at` and send each piece as its own write and chunk.

    Without `at` each byte goes alone. The loop turns once after each write, so a client in
    the same loop reads the pieces apart.
    """

    at: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw(Fault):
    """Send these bytes as they are; at an `asyncio.Event` wait until it is set.

    `end`: `close` the connection, `reset` it, `keep` it for the next request, or `hold` it
    open in silence until the client leaves.
    """

    script: tuple[bytes | asyncio.Event, ...]
    end: Literal["close", "reset", "keep", "hold"] = "close"


RANDOM_FAULTS: Final[tuple[Fault, ...]] = (
    ErrorStatus(status=429, headers={"retry-after": "1"}),
    ErrorStatus(status=500),
    ErrorStatus(status=503),
    Refuse(),
    CutAfterEvents(count=5),
)
"""What `fault_ratio` draws from where the settings name nothing."""

_BY_NAME: Final[dict[str, type[Fault]]] = {
    "refuse": Refuse,
    "stall_before_head": StallBeforeHead,
    "stall_after_head": StallAfterHead,
    "stall_after_events": StallAfterEvents,
    "error_status": ErrorStatus,
    "error_inside": ErrorInside,
    "garbage": Garbage,
    "broken_event": BrokenEvent,
    "cut_after_bytes": CutAfterBytes,
    "cut_after_events": CutAfterEvents,
    "cut_inside_character": CutInsideCharacter,
    "no_done": NoDone,
    "done_without_finish": DoneWithoutFinish,
    "length_mismatch": LengthMismatch,
    "slow": Slow,
    "split_writes": SplitWrites,
}


def from_fields(name: str, fields: Mapping[str, Any]) -> Fault:
    """Return the fault called `name`, its fields as they come from JSON.

    Raises:
        ValueError: There is no such fault, or a field does not fit.
    """
    kind = _BY_NAME.get(name)
    if kind is None:
        raise ValueError(f"Unknown fault {name!r}; known: {', '.join(sorted(_BY_NAME))}")
    known = set(kind.__dataclass_fields__) - {"gate"}
    unknown = sorted(set(fields) - known)
    if unknown:
        raise ValueError(f"Fault {name!r} has no field {', '.join(unknown)}")
    given = {key: _bytes_of(key, value) for key, value in fields.items()}
    try:
        return msgspec.convert(given, kind, strict=True)
    except (msgspec.ValidationError, TypeError) as exc:
        raise ValueError(f"Fault {name!r}: {exc}") from exc


def _bytes_of(key: str, value: Any) -> Any:
    return value.encode() if key in {"body", "event"} and isinstance(value, str) else value


@dataclass(slots=True, eq=False)
class _Armed:
    fault: Fault
    left: int | None
    path: str | None


class Faults:
    """The faults that are armed now."""

    def __init__(self, *, ratio: float, drawn: tuple[Fault, ...], seed: int) -> None:
        self._armed: list[_Armed] = []
        self._ratio = ratio
        self._drawn = drawn or RANDOM_FAULTS
        self._random = Random(seed)  # noqa: S311 - a fixed sequence is wanted
        self.active = ratio > 0
        """Whether `take` can return anything; spares healthy servers the call."""

    def __len__(self) -> int:
        return len(self._armed)

    def add(self, fault: Fault, *, times: int | None = 1, path: str | None = None) -> None:
        """Arm a fault for the next `times` requests; None: for all until `clear`."""
        if times is not None and times < 1:
            raise ValueError("times must be 1 or more, or None for always")
        self._armed.append(_Armed(fault, times, path))
        self.active = True

    def clear(self) -> None:
        """Disarm all. Requests that a fault holds already stay held."""
        self._armed.clear()
        self.active = self._ratio > 0

    def take(self, path: str, *, inference: bool) -> Fault | None:
        """Return the fault for a request to `path` and count it."""
        for armed in self._armed:
            if armed.path == path or (armed.path is None and inference):
                return self._use(armed)
        if inference and self._ratio > 0 and self._random.random() < self._ratio:
            return self._random.choice(self._drawn)
        return None

    def take_refusal(self) -> Refuse | None:
        """Return the refusal that a new connection is to get, and count it."""
        for armed in self._armed:
            if armed.path is None:
                fault = armed.fault
                if not isinstance(fault, Refuse):
                    return None
                self._use(armed)
                return fault
        return None

    def describe(self) -> list[dict[str, Any]]:
        """Return what is armed, for a person to read."""
        return [
            {"fault": repr(armed.fault), "times": armed.left, "path": armed.path}
            for armed in self._armed
        ]

    def _use(self, armed: _Armed) -> Fault:
        if armed.left is not None:
            armed.left -= 1
            if armed.left == 0:
                self._armed.remove(armed)
                self.active = bool(self._armed) or self._ratio > 0
        return armed.fault
