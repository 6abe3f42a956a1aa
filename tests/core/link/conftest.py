"""What tests of the link share; its helpers are imported as `link_peers`."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grpc import aio

from first_core.link import LinkChannel, LinkOptions
from first_core.testing.clock import FakeClock

sys.path.insert(0, str(Path(__file__).parent))

from link_peers import Pair, RawServer, paired, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def open_pair(clock: FakeClock) -> Any:
    """Open a link with these options for both sides; `far` for the one that is dialled."""

    def opener(far: LinkOptions | None = None, **options: Any) -> Any:
        near = LinkOptions(**options)
        return paired(clock, near, far or near)

    return opener


@pytest.fixture
async def pair(open_pair: Any) -> AsyncIterator[Pair]:
    async with open_pair() as opened:
        yield opened


@pytest.fixture
async def dialled(clock: FakeClock) -> AsyncIterator[tuple[Any, Any, RawServer]]:
    """A channel that has dialled a peer by hand: `channel`, `target`, `server`."""
    raw = RawServer()
    async with serving(raw) as (target, _):
        channel = LinkChannel(aio.insecure_channel(target), clock=clock)
        yield channel, target, raw
        raw.release.set()
        await channel.close()


@pytest.fixture
def unused_target() -> Iterator[str]:
    """An address where nothing listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture(autouse=True)
async def _nothing_left() -> AsyncIterator[None]:
    """No test leaves a task of ours running."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if _is_ours(task)]

    assert left == []


def _is_ours(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and "first_" in code.co_filename
