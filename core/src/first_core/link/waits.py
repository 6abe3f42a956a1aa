"""Waiting up to a reading of the clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.clock import Clock


async def wait_until(
    futures: Sequence[asyncio.Future[Any]], clock: Clock, deadline: float | None
) -> None:
    """Wait until one of `futures` is done, or the clock reads `deadline`; cancels none of them."""
    if deadline is None:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        return
    due: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not due.done():
            due.set_result(None)

    timer = clock.call_later(deadline - clock.monotonic(), wake)
    try:
        await asyncio.wait([*futures, due], return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
