"""A second attempt for a plain call that takes longer than most: the first answer wins.

Source: Dean, Barroso, "The Tail at Scale", CACM 2013: hedged requests after the 95th percentile.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from first_core.errors import CallerError, FirstError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_core.clock import Clock
    from first_core.domain.catalog import Endpoint
    from first_core.domain.ledger import Attempt
    from first_core.domain.rescue import Rescue

T = TypeVar("T")

AFTER_RATIO: Final = 0.95
"""Share of the calls that end before a second attempt would begin."""


async def hedged(
    rescue: Rescue,
    model: str,
    attempt: Callable[[Endpoint, Attempt], Awaitable[T]],
    clock: Clock,
) -> T:
    """Run a plain call; where it takes long, a second one beside it. The loser is cancelled.

    Raises:
        FirstError: The first attempt's, when both fail.
    """
    began: asyncio.Future[Endpoint] = asyncio.get_running_loop().create_future()
    asked: list[Endpoint] = []

    async def first(endpoint: Endpoint, account: Attempt) -> T:
        asked.append(endpoint)
        if not began.done():
            began.set_result(endpoint)
        return await attempt(endpoint, account)

    main: asyncio.Future[T] = asyncio.ensure_future(rescue.run(model, first))
    tasks = [main]
    try:
        await asyncio.wait(_any(main, began), return_when=asyncio.FIRST_COMPLETED)
        slow = not main.done() and await _is_slow(main, began.result(), clock)
        # A call that already went on to another endpoint has had its second attempt.
        if slow and len(asked) == 1 and rescue.may_continue():
            other = rescue.run_elsewhere(asked, attempt)
            tasks.append(asyncio.ensure_future(other))
        return await _first_of(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _is_slow(main: asyncio.Future[T], endpoint: Endpoint, clock: Clock) -> bool:
    """Wait for the call as long as most take there; `True`: it is not done then."""
    after_s = endpoint.learned.percentile(AFTER_RATIO)
    if after_s is None:
        return False
    timer = asyncio.ensure_future(clock.sleep(after_s))
    try:
        await asyncio.wait(_any(main, timer), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        await asyncio.gather(timer, return_exceptions=True)
    return not main.done()


def _any(*futures: asyncio.Future[Any]) -> list[asyncio.Future[Any]]:
    return list(futures)


async def _first_of(tasks: list[asyncio.Future[T]]) -> T:
    """Return the first answer; the first task's error when there is none.

    What the first task says against the call itself holds for any endpoint, so it ends the wait.
    """
    pending = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            error = task.exception() if task.done() else None
            if task.done() and error is None:
                return task.result()
            if error is not None and _is_final(error, is_first=task is tasks[0]):
                raise error
    return tasks[0].result()


def _is_final(error: BaseException, *, is_first: bool) -> bool:
    return not isinstance(error, FirstError) or (is_first and isinstance(error, CallerError))
