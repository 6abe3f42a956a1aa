"""Start, stop, and what lies between and after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.errors import BackendUnavailableError, StreamTruncatedError
from first_core.plugin import Call
from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.leftovers import Leftovers
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import require
from first_core.testing.contract.wire import STREAM_HEAD, chunk
from first_core.testing.simulator import ErrorStatus, Raw, StallBeforeHead
from first_core.types import EndpointId, Timeouts

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject, Way

_LONG_S: Final = 3600.0


class LifecycleRules(ContractBase):
    """Rules about the life of a backend and what it publishes."""

    async def test_capabilities_are_as_declared(self, subject: Subject) -> None:
        """`Backend.capabilities` says what this class declares.

        Look at both; what is not declared is not tested.
        """
        told = subject.backend.capabilities
        for name in ("streams", "cancels_upstream", "follows_state"):
            require(
                getattr(told, name) == getattr(self, name),
                f"`{name}` is {getattr(told, name)} at the backend, {getattr(self, name)} here",
            )

    async def test_reports_are_sound(self, subject: Subject) -> None:
        """Endpoints have names of their own, a model, operations, and no credential in a reason.

        Look at what `start` publishes.
        """
        ids = [report.id for report in subject.board.reports]
        require(len(ids) == len(set(ids)), f"an endpoint stands twice in {ids}")
        for report in subject.board.seen:
            require(report.served_model, f"{report.id} has no `served_model`")
            require(report.id.model, f"{report.id} has no model")
            require(report.operations, f"{report.id} has no operations")
            require(
                not self.credential or self.credential not in repr(report),
                f"the report on {report.id} holds the credential",
            )

    async def test_start_does_not_wait_for_the_upstream(self, subject: Subject) -> None:
        """`start` returns, and raises nothing, while the upstream is down.

        Look for a first request that `start` needs to succeed; publish `DOWN` and try behind.
        """
        await subject.stop()
        await subject.upstream.pause_listening()
        await subject.start_only()

    async def test_start_and_stop_can_repeat(self, subject: Subject, way: Way) -> None:
        """After `stop` the backend can be started again, and works.

        Look for what is made in `__init__` and closed in `stop`.
        """
        for _ in range(2):
            await subject.ask(way)
            await subject.stop()
            await subject.start()
        await subject.ask(way)

    async def test_stop_is_safe_to_repeat(self, subject: Subject) -> None:
        """A second `stop` does nothing.

        Look for what the first one closed or forgot.
        """
        await subject.ask("call")
        await subject.stop()
        await subject.stop()

    async def test_stop_ends_calls_in_flight(self, subject: Subject, way: Way) -> None:
        """`stop` lets calls that wait for their answer fail with `BackendUnavailableError`.

        Look for calls that nobody tells, or that end cancelled.
        """
        subject.arm(StallBeforeHead())
        task = subject.begin(way)
        await subject.within(subject.upstream.wait_running(1), "the call at the upstream")
        await subject.stop()
        error = await subject.error(task)

        require(isinstance(error, BackendUnavailableError), f"{error!r}")

    @needs("streams")
    async def test_stop_ends_streams_in_flight(self, subject: Subject) -> None:
        """`stop` lets a stream that has begun fail; it never looks complete.

        Look as for calls in flight.
        """
        sink = RecordingSink()
        subject.script(STREAM_HEAD + chunk(subject.sample.events[0]), end="hold")
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.wait_for(subject.sample.events[0]), "the first event")
        await subject.stop()
        error = await subject.error(task)

        require(isinstance(error, (BackendUnavailableError, StreamTruncatedError)), f"{error!r}")

    async def test_calls_after_stop_fail(self, subject: Subject, way: Way) -> None:
        """A call after `stop` fails with `BackendUnavailableError`, and no work was started.

        Look for a closed client that raises an error of its own.
        """
        call = subject.call(way)
        await subject.stop()
        error = await subject.fail(way, call)

        require(isinstance(error, BackendUnavailableError), f"{error!r}")
        require(not getattr(error, "work_started", True), "`work_started` is true")

    async def test_unknown_endpoint_reaches_nobody(self, subject: Subject, way: Way) -> None:
        """A call for an endpoint that was never published fails, and nothing is sent.

        Look for a default endpoint, or for a `KeyError`.
        """
        known = subject.call(way)
        call = Call(
            operation=known.operation,
            endpoint=EndpointId("nowhere", "none", "unknown-model"),
            body=known.body,
            content_type=known.content_type,
            headers=known.headers,
            timeouts=known.timeouts,
        )
        await subject.fail(way, call)

        require(not subject.posts(), "the upstream got the call")

    async def test_nothing_stays_open(self, subject: Subject, way: Way) -> None:
        """After `stop` there is no `asyncio.Task`, socket, file or timer of the backend left.

        Whatever happened before: calls that went well, failed, were cancelled or hit a bound.
        Look for tasks that nobody awaits, and for connections that are forgotten, not closed.
        """
        await subject.ask(way)
        await self._stop_all(subject)
        timers = subject.clock.timer_count
        stock = Leftovers()
        await subject.start()
        await self._live(subject, way)
        await self._stop_all(subject)

        found = stock.found()
        require(not found, f"still open after `stop`: {found}")
        left = subject.clock.timer_count - timers
        require(left <= 0, f"{left} timers go on after `stop`")

    async def _live(self, subject: Subject, way: Way) -> None:
        """Let calls end in all ways there are."""
        await subject.ask(way)
        for fault in (ErrorStatus(status=400), ErrorStatus(status=503), Raw(script=())):
            subject.arm(fault, times=None)
            await subject.fail(way)
            subject.calm()
        subject.arm(StallBeforeHead(), times=2)
        left = subject.begin(way)
        timeouts = Timeouts(first_chunk_s=self.bound_s)
        bounded = subject.begin(way, subject.call(way, timeouts=timeouts))
        await subject.within(subject.upstream.wait_running(2), "two calls at the upstream")
        left.cancel()
        await subject.pump(bounded.done, "the bound of a call")
        await subject.error(bounded)

    async def _stop_all(self, subject: Subject) -> None:
        await subject.stop()
        await subject.wait_until(
            lambda: subject.upstream.connection_count == 0,
            "all connections to be closed; they are still open after `stop`",
        )
        # Timers that are not set anew run out; those of what goes on do not.
        subject.clock.advance(_LONG_S)
        await subject.settle()
