"""Messages that arrive in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.link.frames import PART_BYTES
from first_core.link.status import broken

if TYPE_CHECKING:
    from first_proto.link.v1 import link_pb2


class Partials:
    """What has arrived of each message that is not yet whole, by call id: one per call."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[link_pb2.Frame, list[bytes]]] = {}
        self._sizes: dict[int, int] = {}

    @property
    def count(self) -> int:
        """How many messages are under way."""
        return len(self._begun)

    def holds(self, call_id: int) -> bool:
        """Tell whether a message of this call is under way."""
        return call_id in self._begun

    def size(self, call_id: int) -> int:
        """Return how much of a message has arrived, in bytes; 0 where none is under way."""
        return self._sizes.get(call_id, 0)

    def begin(self, frame: link_pb2.Frame) -> None:
        """Take the frame that holds the first part.

        Raises:
            LinkError: A message of this call is under way, or the part is of the wrong size.
        """
        _check_size(frame)
        if frame.call_id in self._begun:
            raise broken(f"call id {frame.call_id} has a message under way")
        self._begun[frame.call_id] = (frame, [frame.message])
        self._sizes[frame.call_id] = len(frame.message)

    def add(self, part: link_pb2.Frame) -> link_pb2.Frame | None:
        """Take a further part; return the frame that began it once it is whole.

        Raises:
            LinkError: The part is of the wrong size.
        """
        _check_size(part)
        frame, parts = self._begun[part.call_id]
        parts.append(part.message)
        self._sizes[part.call_id] += len(part.message)
        if part.more:
            return None
        self.drop(part.call_id)
        frame.message = b"".join(parts)
        frame.more = False
        return frame

    def drop(self, call_id: int) -> link_pb2.Frame | None:
        """Forget a message that is under way; return the frame that began it."""
        self._sizes.pop(call_id, None)
        begun = self._begun.pop(call_id, None)
        return None if begun is None else begun[0]


def _check_size(part: link_pb2.Frame) -> None:
    if (
        part.more and len(part.message) != PART_BYTES
    ):  # many tiny ones would cost more than they say
        raise broken(f"a part of {len(part.message)} bytes that is not the last")
