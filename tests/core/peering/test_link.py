"""How a peer is followed: what a broken watch means, and when."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from grpc import aio

from first_core.peering.link import GRACE_S, LONGEST_PAUSE_S, PeerLink
from first_core.peering.settings import PeerSettings
from first_core.testing.clock import FakeClock
from first_core.types import EndpointState
from first_proto.peer.v1 import peer_pb2, peer_pb2_grpc
from first_proto.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BOUND_S = 10.0


class Peer(peer_pb2_grpc.PeerServiceServicer):
    """Offers one endpoint, and lets its watch hang."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._server: aio.Server | None = None
        self.name = "b"

    async def WatchCatalog(self, request: Any, context: Any) -> None:  # noqa: N802
        ref = common_pb2.EndpointRef(cluster="c", framework="f", model="m")
        offer = peer_pb2.Offer(ref=ref, state=common_pb2.ENDPOINT_STATE_READY)
        await context.write(peer_pb2.WatchCatalogResponse(gateway=self.name, offers=[offer]))
        await asyncio.Event().wait()

    async def start(self) -> None:
        self._server = aio.server()
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(self._address)
        await self._server.start()

    async def stop(self) -> None:
        """Break off, without a word of ours."""
        if self._server is not None:
            await self._server.stop(0)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        peer = Peer(f"unix:{Path(folder) / 'b'}")
        await peer.start()
        yield peer
        await peer.stop()


@pytest.fixture
def renamed(peer: Peer) -> None:
    """The peer calls itself otherwise."""
    peer.name = "z"


@pytest.fixture
async def link(peer: Peer, clock: FakeClock) -> AsyncIterator[Any]:
    """A link to the peer, and `wait(condition)`, which waits until its reports are so."""
    changed = asyncio.Event()
    link = PeerLink(
        PeerSettings(name="b", target=peer._address),
        own_name="a",
        hop_budget=3,
        clock=clock,
        changed=changed.set,
        looked=changed.set,
    )

    async def wait(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                changed.clear()
                await changed.wait()

    link.wait = wait
    link.start()
    yield link
    await link.stop()


def states(link: PeerLink) -> list[EndpointState]:
    return [report.state for report in link.reports()]


async def test_endpoints_outlast_a_short_break(link, peer, clock):
    """Within the grace after a broken watch they stay as they were, after it they are down."""
    await link.wait(lambda: states(link) == [EndpointState.READY])
    await peer.stop()
    await clock.wait_timers(2)  # the grace, and the pause before the next try
    within = states(link)
    clock.advance(GRACE_S)

    assert within == [EndpointState.READY]
    assert states(link) == [EndpointState.DOWN]
    assert link.reports()[0].state_reason == "the peer cannot be reached"


async def test_a_peer_that_is_back_is_found(link, peer, clock):
    """The watch is tried again and again, at pauses of a few seconds at most."""
    await link.wait(lambda: states(link) == [EndpointState.READY])
    await peer.stop()
    await clock.wait_timers(2)
    clock.advance(GRACE_S)
    await peer.start()
    async with asyncio.timeout(BOUND_S):
        while states(link) != [EndpointState.READY]:
            await clock.wait_timers(0)
            clock.advance(LONGEST_PAUSE_S * 1.5)
            await asyncio.sleep(0)

    assert states(link) == [EndpointState.READY]


async def test_a_peer_with_another_name_offers_nothing(renamed, link):
    """Lists of hops are made of names: a peer must be who the settings say."""
    await link.wait(lambda: link._down_reason != "")

    assert link.reports() == []
    assert link._down_reason == "the peer's name is 'z', not 'b'"


async def test_stopping_can_repeat(link):
    """A link that is stopped has nothing open, and may be stopped again."""
    await link.stop()
    await link.stop()

    assert link.stub is None
