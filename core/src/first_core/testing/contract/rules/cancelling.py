"""Cancelling the `asyncio.Task` stops the work at the upstream, in each window."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import RuleBrokenError, require, require_same
from first_core.testing.contract.wire import STREAM_HEAD, chunk, streamed, whole
from first_core.testing.simulator import StallAfterHead, StallBeforeHead

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Reply, Subject, Way


class CancelRules(ContractBase):
    """Rules about callers that leave."""

    @needs("cancels_upstream")
    async def test_cancelling_before_the_head_reaches_the_upstream(
        self, subject: Subject, way: Way
    ) -> None:
        """A caller that leaves before the answer begins stops the work.

        Look for `asyncio.shield`, for a thread that nobody interrupts, or for a connection that
        goes back to its pool.
        """
        subject.arm(StallBeforeHead())
        await self._cancel(subject, subject.begin(way))

    @needs("cancels_upstream")
    async def test_cancelling_after_the_head_reaches_the_upstream(
        self, subject: Subject, way: Way
    ) -> None:
        """A caller that leaves after the head stops the work.

        Look at how a body is read: what was begun must be closed, not read to its end.
        """
        subject.arm(StallAfterHead())
        await self._cancel(subject, subject.begin(way))

    @needs("cancels_upstream")
    @needs("streams")
    async def test_cancelling_amid_the_stream_reaches_the_upstream(self, subject: Subject) -> None:
        """A caller that leaves amid a stream stops the work.

        Look as after the head.
        """
        event = subject.sample.events[0]
        sink = RecordingSink()
        subject.script(STREAM_HEAD + chunk(event), end="hold")
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.wait_for(event), "the first event")
        await self._cancel(subject, task)

    @needs("cancels_upstream")
    @needs("streams")
    async def test_cancelling_a_slow_reader_reaches_the_upstream(self, subject: Subject) -> None:
        """A caller that leaves while the backend awaits `drain` stops the work.

        Look for a `drain` outside of what closes the connection.
        """
        sink = RecordingSink(gate=asyncio.Event())
        subject.script(STREAM_HEAD + chunk(subject.sample.events[0]), end="hold")
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.draining.wait(), "`drain` after a `write` that returned true")
        await self._cancel(subject, task)

    async def test_calls_after_a_cancelled_one_are_whole(self, subject: Subject, way: Way) -> None:
        """What was due to a cancelled call never reaches the next call.

        Look for a connection that goes back to its pool with an answer still due on it.
        """
        gate = asyncio.Event()
        subject.script(gate, _wire(way, b'data: {"choices":["of another"]}\n\n'))
        task = subject.begin(way)
        await subject.within(subject.upstream.wait_running(1), "the call at the upstream")
        await subject.settle()
        task.cancel()
        await asyncio.wait({task}, timeout=subject.patience_s)
        gate.set()
        await subject.settle()
        sent = b"".join(subject.sample.events) if way == "stream" else subject.sample.answer
        subject.script(_wire(way, sent))
        reply = await subject.ask(way)

        require_same(reply.body, sent, "answer")

    async def _cancel(self, subject: Subject, task: asyncio.Task[Reply]) -> None:
        """Cancel a call that the upstream works on, and require that both sides end."""
        upstream = subject.upstream
        await subject.within(upstream.wait_running(1), "the call at the upstream")
        await subject.settle()
        require(not task.done(), "the call ended before it was cancelled")
        task.cancel()
        await asyncio.wait({task}, timeout=subject.patience_s)
        require(task.done(), "the task goes on after it was cancelled")
        require(task.cancelled(), "the cancellation did not come out of the backend")
        try:
            await upstream.wait_aborts(1, timeout_s=subject.patience_s)
        except TimeoutError as exc:
            raise RuleBrokenError("the upstream goes on working for a caller that left") from exc


def _wire(way: Way, body: bytes) -> bytes:
    return streamed(body) if way == "stream" else whole(body)
