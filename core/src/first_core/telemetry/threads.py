"""Runs blocking work that must not hold the event loop, nor the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def run_bounded(work: Callable[[], object], timeout_s: float) -> bool:
    """Run `work` in a thread and wait for it.

    Returns:
        Whether it ended within `timeout_s` seconds; if not, it goes on, and dies with the process.

    `asyncio.to_thread` is no choice: the interpreter waits for its threads at exit.
    """
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with contextlib.suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, name="first-telemetry-stop", daemon=True).start()
    try:
        await asyncio.wait_for(done.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
