"""The consumer of results: one connection and one queue per process."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

import aio_pika
from aio_pika.exceptions import AMQPError

from first_globus.buffers import UnreadableResultError, read_message, read_status
from first_globus.service import ServiceError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

    from first_core.clock import Clock
    from first_globus.rate import RateLimit
    from first_globus.service import ComputeService
    from first_globus.tasks import Results

CONNECT_TIMEOUT_S: Final = 10.0
"""Longest wait for a connection to the broker, in seconds."""

FIRST_PAUSE_S: Final = 0.25
"""Wait after the first failure, in seconds; doubles from failure to failure."""

LONGEST_PAUSE_S: Final = 10.0
"""Longest such wait, in seconds."""

_log = logging.getLogger(__name__)


class ResultConsumer:
    """Takes results off the queue of a task group as they arrive.

    The service makes that queue at the first submit, so nothing is consumed before. After a
    connection was lost the service is asked for what arrived meanwhile; the queue keeps it too.

    Args:
        service: Tells the broker's address.
        rate: The service's limit.
        results: Takes the results.
        group: The task group; a second consumer would take half of them, so it is ours alone.
        clock: The time.
    """

    def __init__(
        self,
        service: ComputeService,
        *,
        rate: RateLimit,
        results: Results,
        group: str,
        clock: Clock,
    ) -> None:
        self._service = service
        self._rate = rate
        self._results = results
        self._group = group
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def ensure(self) -> None:
        """Consume from now on; call it once a submit has been taken."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Close the connection; safe to repeat."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        is_first = True
        while True:
            begin_s = self._clock.monotonic()
            try:
                await self._consume(is_first=is_first)
            except (AMQPError, OSError, TimeoutError, ServiceError) as exc:
                _log.warning("broker of results is lost", extra={"reason": type(exc).__name__})
            except Exception:
                _log.exception("consumer of results failed")
            if self._clock.monotonic() - begin_s > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            is_first = False
            await self._clock.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _consume(self, *, is_first: bool) -> None:
        # Asked for each time: its credential may have expired.
        await self._rate.take()
        address = await self._service.broker()
        connection = await aio_pika.connect(address.url, timeout=CONNECT_TIMEOUT_S)
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_close(*_args: object) -> None:
            if not lost.done():
                lost.set_result(None)

        try:
            connection.close_callbacks.add(on_close)
            channel = await connection.channel()
            channel.close_callbacks.add(on_close)
            queue = await channel.get_queue(f"{address.queue_prefix}{self._group}", ensure=False)
            await queue.consume(self._take)
            _log.info("results are being consumed")
            if not is_first:
                await self._catch_up()
            await lost
        finally:
            await connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        try:
            self._results.take(read_message(message.body))
        except UnreadableResultError:
            _log.warning("message that is no result", extra={"size": len(message.body)})
        await message.ack()

    async def _catch_up(self) -> None:
        pending = self._results.pending()
        if not pending:
            return
        await self._rate.take()
        for task_id, document in (await self._service.finished(pending)).items():
            result = read_status(task_id, document)
            if result is not None:
                self._results.take(result)
