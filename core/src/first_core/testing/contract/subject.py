"""The backend under test, as the router would hold it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from first_core.errors import FirstError
from first_core.plugin import Call
from first_core.testing.contract.board import Board
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import RuleBrokenError, require
from first_core.testing.contract.wire import JSON
from first_core.testing.simulator import Raw
from first_core.types import Operation, Timeouts

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from first_core.plugin import Backend, EndpointReport
    from first_core.testing.clock import FakeClock
    from first_core.testing.contract.samples import Sample
    from first_core.testing.simulator import Fault, Simulator

Way: TypeAlias = Literal["call", "stream"]
"""Which method of the backend runs a call."""

T = TypeVar("T")

PROMPT: Final = "contract-prompt-8d2c"
"""Stands in each body; must not stand in a log."""

STEP_S: Final = 0.1
"""Seconds by which `pump` moves the clock at a time."""

_TURNS: Final = 50
"""Turns of the loop after which two sides in it have told each other what they had to tell: each
hop over loopback takes one turn."""

_NO_BOUNDS: Final = Timeouts(connect_s=60.0, first_chunk_s=None, idle_s=None, total_s=None)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, or a whole stream put together."""

    body: bytes = field(repr=False)
    content_type: str


class Subject:
    """One backend between a recording publisher and a simulated upstream.

    Args:
        backend: Not started yet.
        upstream: What it reaches.
        clock: The backend's time.
        operation: What it is asked.
        sample: Bodies of that operation.
        patience_s: Longest wait for anything, in seconds of the wall clock; only a broken
            backend makes the kit wait that long.
    """

    def __init__(
        self,
        backend: Backend,
        upstream: Simulator,
        clock: FakeClock,
        *,
        operation: Operation,
        sample: Sample,
        patience_s: float,
    ) -> None:
        self.backend = backend
        self.upstream = upstream
        self.clock = clock
        self.operation = operation
        self.sample = sample
        self.patience_s = patience_s
        self.board = Board()
        self._tasks: set[asyncio.Task[Reply]] = set()

    # Life

    async def start(self) -> None:
        """Start the backend and wait until it offers an endpoint that is ready."""
        await self.start_only()
        await self.wait_ready()

    async def wait_ready(self) -> None:
        """Move the clock on until an endpoint is ready."""
        await self.pump(
            lambda: self.board.ready(self.operation) is not None,
            f"an endpoint that is ready for {self.operation.name.lower()}",
        )

    async def start_only(self) -> None:
        """Start the backend."""
        await self._pumped(self.backend.start(self.board.publish), "the return of `start`")

    async def stop(self) -> None:
        """Stop the backend."""
        await self._pumped(self.backend.stop(), "the return of `stop`")

    async def close(self) -> None:
        """Give up what still runs, and stop the backend."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.patience_s)
        await self.stop()

    # Calls

    @property
    def report(self) -> EndpointReport:
        """The endpoint that calls go to."""
        report = self.board.ready(self.operation)
        if report is None:
            raise RuleBrokenError(f"no endpoint is ready: {self.board.reports}")
        return report

    def call(
        self,
        way: Way,
        *,
        prompt: str = PROMPT,
        body: bytes | None = None,
        content_type: str = JSON,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts = _NO_BOUNDS,
    ) -> Call:
        """Return a call for the endpoint, by default the sample's."""
        report = self.report
        if body is None:
            body = self.sample.body(report.served_model, prompt, stream=way == "stream")
        return Call(
            operation=self.operation,
            endpoint=report.id,
            body=body,
            content_type=content_type,
            headers=headers or {},
            timeouts=timeouts,
        )

    def begin(
        self, way: Way, call: Call | None = None, sink: RecordingSink | None = None
    ) -> asyncio.Task[Reply]:
        """Run a call in an `asyncio.Task` of its own."""
        task = asyncio.create_task(self._run(way, call or self.call(way), sink or RecordingSink()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ask(
        self, way: Way, call: Call | None = None, sink: RecordingSink | None = None
    ) -> Reply:
        """Run a call that must go well, and return what it brought."""
        return await self.reply(self.begin(way, call, sink))

    async def fail(
        self, way: Way, call: Call | None = None, sink: RecordingSink | None = None
    ) -> FirstError:
        """Run a call that must fail, and return its error."""
        return await self.error(self.begin(way, call, sink))

    async def reply(self, task: asyncio.Task[Reply]) -> Reply:
        """Wait for a call that must go well."""
        await self._done(task)
        if task.cancelled():
            raise RuleBrokenError("the call ended cancelled, though nobody cancelled it")
        error = task.exception()
        if error is not None:
            raise RuleBrokenError(f"the call failed: {error!r}") from error
        return task.result()

    async def error(self, task: asyncio.Task[Reply]) -> FirstError:
        """Wait for a call that must fail with a `FirstError`."""
        await self._done(task)
        if task.cancelled():
            raise RuleBrokenError("the call ended cancelled, though nobody cancelled it")
        error = task.exception()
        require(error is not None, "the call ended as if its answer were complete")
        if not isinstance(error, FirstError):
            raise RuleBrokenError(f"{error!r} left the backend; only FirstErrors may") from error
        return error

    async def _run(self, way: Way, call: Call, sink: RecordingSink) -> Reply:
        if way == "call":
            answer = await self.backend.call(call)
            return Reply(answer.body, answer.content_type)
        await self.backend.stream(call, sink)
        return Reply(sink.data, sink.content_type or "")

    async def _done(self, task: asyncio.Task[Reply]) -> None:
        # asyncio.wait and not asyncio.timeout: a backend may swallow a cancellation.
        await asyncio.wait({task}, timeout=self.patience_s)
        require(task.done(), f"the call did not end within {self.patience_s:g} s")

    # The upstream

    def arm(self, fault: Fault, *, times: int | None = 1) -> None:
        """Let the next `times` calls meet `fault`; `None`: all until `calm`."""
        self.upstream.faults.add(fault, times=times)

    def script(
        self,
        *steps: bytes | asyncio.Event,
        end: Literal["close", "reset", "keep", "hold"] = "keep",
    ) -> None:
        """Let the upstream answer the next call with these very bytes."""
        self.arm(Raw(script=steps, end=end))

    def calm(self) -> None:
        """Let the upstream answer well again."""
        self.upstream.faults.clear()

    def posts(self) -> list[tuple[str, dict[str, str], bytes]]:
        """Return path, headers and body of each call that the upstream has received."""
        return [
            (path, headers, body)
            for method, path, headers, body in self.upstream.received
            if method == "POST"
        ]

    # Time

    async def within(self, awaitable: Awaitable[T], what: str) -> T:
        """Wait for something of the kit's own."""
        try:
            async with asyncio.timeout(self.patience_s):
                return await awaitable
        except TimeoutError as exc:
            raise RuleBrokenError(f"waited in vain for {what}") from exc

    async def settle(self) -> None:
        """Let both sides tell each other what they have to tell; the clock stands still."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Let both sides work until `condition` holds; the clock stands still."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.patience_s
        while not condition():
            require(loop.time() < end_s, f"waited in vain for {what}")
            await self.settle()

    async def pump(self, condition: Callable[[], bool], what: str) -> None:
        """Move the clock on, step by step, until `condition` holds."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self.patience_s
        while not condition():
            await self.settle()
            if condition():
                return
            if loop.time() > end_s:
                raise RuleBrokenError(f"waited in vain for {what}")
            self.clock.advance(STEP_S)

    async def _pumped(self, work: Awaitable[None], what: str) -> None:
        task = asyncio.ensure_future(work)
        try:
            await self.pump(task.done, what)
        finally:
            task.cancel()
        try:
            await task
        except Exception as exc:
            raise RuleBrokenError(f"instead of {what} came {exc!r}") from exc
