"""The bounds of `Timeouts`: each is kept, and none strikes a healthy stream.

The clock stands still unless a rule moves it, so a bound of minutes costs nothing. A backend on
another clock than the kit's keeps these rules too, within `bound_s` of real time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from first_core.errors import BackendTimeoutError
from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.subject import STEP_S
from first_core.testing.contract.verdict import require, require_same
from first_core.testing.contract.wire import LAST_CHUNK, STREAM_HEAD, chunk, streamed
from first_core.testing.simulator import StallAfterHead, StallBeforeHead
from first_core.types import Timeouts

if TYPE_CHECKING:
    from first_core.errors import FirstError
    from first_core.testing.contract.subject import Reply, Subject, Way


class BoundRules(ContractBase):
    """Rules about time."""

    async def test_silence_before_the_answer_hits_first_chunk(
        self, subject: Subject, way: Way
    ) -> None:
        """An upstream that does not answer in `first_chunk_s` gives `BackendTimeoutError`.

        `metadata["bound"]` is `first_chunk`, and work may have been started. Look where the bound
        is set: once the request is out, and on the clock of `BackendContext`.
        """
        subject.arm(StallBeforeHead())
        timeouts = Timeouts(first_chunk_s=self.bound_s, idle_s=None)
        task = subject.begin(way, subject.call(way, timeouts=timeouts))
        await subject.upstream.wait_running(1, timeout_s=subject.patience_s)
        error = await self._error(subject, task, early_s=self.bound_s / 2)

        require(_bound(error) == "first_chunk", f"{error!r} tells bound {_bound(error)!r}")
        require(getattr(error, "work_started", False), "`work_started` is false")

    async def test_silence_after_the_head_hits_a_bound(self, subject: Subject, way: Way) -> None:
        """A head alone does not stop the clock: silence after it hits `first_chunk` or `idle`.

        Look whether the bound ends with the head or with the first byte after it.
        """
        subject.arm(StallAfterHead())
        timeouts = Timeouts(first_chunk_s=self.bound_s, idle_s=self.bound_s)
        task = subject.begin(way, subject.call(way, timeouts=timeouts))
        await subject.upstream.wait_running(1, timeout_s=subject.patience_s)
        error = await self._error(subject, task, early_s=self.bound_s / 2)

        require(_bound(error) in {"first_chunk", "idle"}, f"{error!r} tells {_bound(error)!r}")

    @needs("streams")
    async def test_silence_amid_the_stream_hits_idle(self, subject: Subject) -> None:
        """A stream that falls silent for `idle_s` ends in `BackendTimeoutError`, bound `idle`.

        Look whether the bound is set anew with each piece.
        """
        sink = RecordingSink()
        subject.script(STREAM_HEAD + chunk(subject.sample.events[0]), end="hold")
        timeouts = Timeouts(first_chunk_s=None, idle_s=self.bound_s)
        task = subject.begin("stream", subject.call("stream", timeouts=timeouts), sink)
        await subject.within(sink.wait_for(subject.sample.events[0]), "the first event")
        error = await self._error(subject, task, early_s=self.bound_s / 2)

        require(_bound(error) == "idle", f"{error!r} tells bound {_bound(error)!r}")

    async def test_total_ends_a_call(self, subject: Subject, way: Way) -> None:
        """`total_s` ends a call that is still under way, with bound `total`.

        Look whether it is set when the call begins, and whether other bounds move it.
        """
        subject.arm(StallAfterHead())
        timeouts = Timeouts(first_chunk_s=None, idle_s=None, total_s=self.bound_s)
        task = subject.begin(way, subject.call(way, timeouts=timeouts))
        await subject.upstream.wait_running(1, timeout_s=subject.patience_s)
        error = await self._error(subject, task, early_s=self.bound_s / 2)

        require(_bound(error) == "total", f"{error!r} tells bound {_bound(error)!r}")

    @needs("streams")
    async def test_events_in_time_keep_a_stream_alive(self, subject: Subject) -> None:
        """A stream whose events come in time may last for ever: `idle_s` bounds each silence.

        Look for a timeout around the whole stream.
        """
        events = subject.sample.events
        gates = [asyncio.Event() for _ in events]
        steps = [step for pair in zip(map(chunk, events), gates, strict=True) for step in pair]
        subject.script(STREAM_HEAD, *steps, LAST_CHUNK)
        sink = RecordingSink()
        timeouts = Timeouts(first_chunk_s=self.bound_s, idle_s=self.bound_s)
        task = subject.begin("stream", subject.call("stream", timeouts=timeouts), sink)
        for event, gate in zip(events, gates, strict=True):
            await subject.within(sink.wait_for(event), "an event")
            subject.clock.advance(self.bound_s * 0.6)
            await subject.settle()
            gate.set()
        reply = await subject.reply(task)

        require_same(reply.body, b"".join(events), "stream")

    @needs("streams")
    async def test_slow_reader_is_not_silence(self, subject: Subject) -> None:
        """Time that the reader takes in `drain` is not the upstream's silence.

        Look whether the bound stands still while you await `drain`.
        """
        gate = asyncio.Event()
        sink = RecordingSink(gate=gate)
        subject.script(streamed(*subject.sample.events))
        timeouts = Timeouts(first_chunk_s=self.bound_s, idle_s=self.bound_s)
        task = subject.begin("stream", subject.call("stream", timeouts=timeouts), sink)
        await subject.within(sink.draining.wait(), "`drain` after a `write` that returned true")
        subject.clock.advance(self.bound_s * 10)
        await subject.settle()
        gate.set()
        reply = await subject.reply(task)

        require_same(reply.body, b"".join(subject.sample.events), "stream")

    async def _error(
        self, subject: Subject, task: asyncio.Task[Reply], *, early_s: float
    ) -> FirstError:
        """Wait for the bound of a call that must not hit it within `early_s`."""
        subject.clock.advance(early_s)
        await subject.settle()
        require(not task.done(), "the call ended before its bound")
        await subject.pump(task.done, f"the bound of {self.bound_s:g} s, steps of {STEP_S:g} s")
        return await subject.error(task)


def _bound(error: FirstError) -> str:
    return error.metadata.get("bound", "") if isinstance(error, BackendTimeoutError) else ""
