"""Tasks on their way: handed in together where the rate asks for it, told apart by their ids."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final

from first_globus.service import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from first_globus.buffers import TaskResult
    from first_globus.rate import RateLimit
    from first_globus.service import ComputeService

MAX_SUBMITS: Final = 2
"""Submits to one endpoint at a time. Each holds a thread, for as long as the endpoint's process
takes to start, and others need threads too."""

MAX_TASKS: Final = 256
"""Tasks in one submit."""

MAX_EARLY: Final = 1024
"""Results kept whose tasks are not known: they may overtake the answer to their submit."""

MAX_EARLY_CHARS: Final = 32 * 1024 * 1024
"""Length of these together, since those of calls that were given up look the same."""

_OVERHEAD_BYTES: Final = 4096
"""What a submit holds beside its tasks, generously."""

_SPLIT_STATUSES: Final = frozenset({400, 413, 422})
"""Refusals that one task can cause for others in the same submit. Nothing was started."""

_log = logging.getLogger(__name__)


class Task:
    """One task: waits for its submit, then for its result.

    Args:
        endpoint: Id of the Globus Compute endpoint.
        function: Id of the function.
        arguments: Packed.
    """

    def __init__(self, endpoint: str, function: str, arguments: str) -> None:
        self.endpoint = endpoint
        self.function = function
        self.arguments = arguments
        # JSON escapes at least quotes and newlines; an exact count would cost an encoding.
        self.size = len(arguments.encode()) + arguments.count('"') + arguments.count("\\")
        self.id = ""
        """As the service calls it; empty until it was submitted."""
        self.is_sent = False
        """Whether a submit with it is under way or over."""
        self.result: asyncio.Future[TaskResult] = asyncio.get_running_loop().create_future()
        """How it ended; a `ServiceError` where the submit failed."""

    def finish(self, result: TaskResult) -> None:
        """Take the result; the first one counts."""
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: ServiceError) -> None:
        """Take note that it was not submitted."""
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()  # seen: nobody may be waiting any more


class Results:
    """Brings results to their tasks. Unknown and late ones are dropped, never given to another."""

    def __init__(self) -> None:
        self._waiting: dict[str, Task] = {}
        self._early: OrderedDict[str, TaskResult] = OrderedDict()
        self._early_chars = 0

    def expect(self, task: Task) -> None:
        """Wait for the result of a task that has its id."""
        early = self._early.pop(task.id, None)
        if early is not None:
            self._early_chars -= len(early.data)
            task.finish(early)
        elif not task.result.done():
            self._waiting[task.id] = task

    def forget(self, task: Task) -> None:
        """Wait no more; safe to repeat."""
        self._waiting.pop(task.id, None)

    def take(self, result: TaskResult) -> None:
        """Take a result as it arrives."""
        task = self._waiting.pop(result.task_id, None)
        if task is not None:
            task.finish(result)
            return
        if result.task_id in self._early:
            return
        self._early[result.task_id] = result
        self._early_chars += len(result.data)
        while len(self._early) > MAX_EARLY or self._early_chars > MAX_EARLY_CHARS:
            _, oldest = self._early.popitem(last=False)
            self._early_chars -= len(oldest.data)

    def pending(self) -> list[str]:
        """Return the ids of tasks whose results are missing."""
        return list(self._waiting)


class Lane:
    """Submits the tasks of one endpoint, one by one while the rate allows, else together."""

    def __init__(
        self,
        endpoint: str,
        *,
        service: ComputeService,
        rate: RateLimit,
        results: Results,
        group: str,
        max_request_bytes: int,
        submitted: Callable[[], None],
    ) -> None:
        self._endpoint = endpoint
        self._service = service
        self._rate = rate
        self._results = results
        self._group = group
        self._max_bytes = max_request_bytes - _OVERHEAD_BYTES
        self._submitted = submitted
        self._queue: deque[Task] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._sends: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(MAX_SUBMITS)

    def add(self, task: Task) -> None:
        """Submit a task as soon as the rate allows.

        Raises:
            ServiceError: It is larger than the service takes.
        """
        if task.size > self._max_bytes:
            raise ServiceError(
                f"the call exceeds the {self._max_bytes} bytes that a task may carry",
                status=413,
                work_started=False,
            )
        self._queue.append(task)
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Submit nothing more."""
        tasks = [*self._sends, *([self._runner] if self._runner else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self._queue:
            self._queue.popleft().fail(ServiceError("shutting down", work_started=False))

    async def _run(self) -> None:
        while self._queue:
            await self._room.acquire()
            try:
                await self._rate.take()
                batch = self._collect()
            except BaseException:
                self._room.release()
                raise
            send = asyncio.create_task(self._send(batch))
            self._sends.add(send)
            send.add_done_callback(self._sent)

    def _sent(self, send: asyncio.Task[None]) -> None:
        self._sends.discard(send)
        self._room.release()

    def _collect(self) -> list[Task]:
        batch: list[Task] = []
        size = 0
        while self._queue and len(batch) < MAX_TASKS:
            task = self._queue[0]
            if batch and size + task.size > self._max_bytes:
                break
            self._queue.popleft()
            if not task.result.done():  # its call has been given up
                batch.append(task)
                size += task.size
        return batch

    async def _send(self, batch: list[Task]) -> None:
        if not batch:
            return
        for task in batch:
            task.is_sent = True
        try:
            ids = await self._service.submit(self._endpoint, _by_function(batch), group=self._group)
        except ServiceError as exc:
            await self._refused(batch, exc)
            return
        except asyncio.CancelledError:
            _fail(batch, ServiceError("the gateway is shutting down"))
            raise
        except Exception:
            _log.exception("submit failed", extra={"endpoint": self._endpoint})
            _fail(batch, ServiceError("the submit failed"))
            return
        queues = {function: iter(found) for function, found in ids.items()}
        for task in batch:
            task.id = str(next(queues[task.function]))
            self._results.expect(task)
        self._submitted()

    async def _refused(self, batch: list[Task], error: ServiceError) -> None:
        if error.status in _SPLIT_STATUSES and len(batch) > 1:
            for task in batch:
                await self._rate.take()
                await self._send([task])
            return
        _fail(batch, error)


def _by_function(batch: Iterable[Task]) -> dict[str, list[str]]:
    tasks: dict[str, list[str]] = {}
    for task in batch:
        tasks.setdefault(task.function, []).append(task.arguments)
    return tasks


def _fail(batch: Iterable[Task], error: ServiceError) -> None:
    for task in batch:
        task.fail(error)
