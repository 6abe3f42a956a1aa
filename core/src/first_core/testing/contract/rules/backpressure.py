"""A slow reader slows the upstream, instead of filling the gateway's memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import require, require_same
from first_core.testing.contract.wire import LAST_CHUNK, STREAM_HEAD, Turns, chunk

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject

PIECE_BYTES: Final = 64 * 1024
PIECE_COUNT: Final = 384
"""24 MiB together: more than the kernel takes for a reader that reads nothing. Linux allows at
most 4 MiB to the sender and 6 to the receiver of a connection (tcp_wmem, tcp_rmem)."""

_EXTRA_TURNS: Final = 2000


class BackpressureRules(ContractBase):
    """Rules about readers that are behind."""

    @needs("streams")
    async def test_slow_reader_slows_the_upstream(self, subject: Subject) -> None:
        """While the sink is behind, the backend reads no more than a bounded amount.

        Look for a queue without a bound between reading and `write`, or for a `drain` that is
        left to a task of its own.
        """
        piece = b"data: %b\n\n" % (b"x" * (PIECE_BYTES - 8))
        gate, sent = asyncio.Event(), asyncio.Event()
        sink = RecordingSink(gate=gate)
        steps = [step for _ in range(PIECE_COUNT) for step in (chunk(piece), Turns(2))]
        subject.script(STREAM_HEAD, *steps, LAST_CHUNK, _Sets(sent), end="close")
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.draining.wait(), "`drain` after a `write` that returned true")
        open_count = subject.upstream.connection_count
        await subject.within(sent.wait(), "the upstream to write all it has")
        await Turns(_EXTRA_TURNS).wait()
        taken_count = open_count - subject.upstream.connection_count
        gate.set()
        reply = await subject.reply(task)

        # The upstream's connection closes once its last byte has left.
        require(taken_count == 0, f"{PIECE_BYTES * PIECE_COUNT} bytes were read and kept")
        require_same(reply.body, piece * PIECE_COUNT, "stream")

    @needs("streams")
    async def test_nothing_is_written_before_drain_returns(self, subject: Subject) -> None:
        """After a `write` that returned true, the next one waits for `drain` to return.

        Look at the return value of `write` in each place that calls it.
        """
        events = subject.sample.events
        gate = asyncio.Event()
        sink = RecordingSink(gate=gate)
        steps = [step for event in events for step in (chunk(event), Turns())]
        subject.script(STREAM_HEAD, *steps, LAST_CHUNK)
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.draining.wait(), "`drain` after a `write` that returned true")
        await subject.settle()
        piece_count = len(sink.pieces)
        gate.set()
        reply = await subject.reply(task)

        require(piece_count == 1, f"{piece_count} writes before `drain` returned")
        require(not sink.misuses, "; ".join(dict.fromkeys(sink.misuses)))
        require_same(reply.body, b"".join(events), "stream")


class _Sets(Turns):
    """A gate that is open, and tells that a script has come to it."""

    def __init__(self, reached: asyncio.Event) -> None:
        super().__init__(0)
        self._reached = reached

    async def wait(self) -> bool:  # type: ignore[override]
        self._reached.set()
        return True
