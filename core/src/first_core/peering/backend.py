"""The backend `peer`: endpoints behind other gateways."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar, Final

from first_core.errors import BackendUnavailableError
from first_core.peering.forward import Forward, metadata_for, request_for
from first_core.peering.link import PeerLink
from first_core.peering.offers import nearest
from first_core.peering.passage import passage_of
from first_core.plugin import Backend, Capabilities
from first_core.plugin.watchdog import Watchdog
from first_proto.peer.v1 import peer_pb2
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from first_core.peering.settings import FederationSettings
    from first_core.plugin import (
        Answer,
        BackendContext,
        Call,
        ChunkSink,
        EndpointReport,
        Publish,
    )
    from first_core.types import EndpointId

START_WAIT_S: Final = 0.5
"""Longest wait of `start` for the peers' first words, in seconds: peers nearby are known when the
first call comes, and one that does not answer delays no start. Two gateways that start together
each find the other a moment later."""


class PeerBackend(Backend):
    """Reaches endpoints through the gateways that serve them.

    Args:
        settings: The section `federation`.
        context: The time, and where to tell what happens.
    """

    capabilities: ClassVar = Capabilities(follows_state=True)

    def __init__(self, settings: FederationSettings, context: BackendContext) -> None:
        self._own_name = settings.name or ""
        self._hop_budget = settings.hop_budget
        self._clock = context.clock
        self._watchdog = Watchdog(context.clock)
        self._publish: Publish | None = None
        self._published: list[EndpointReport] = []
        self._first_looks = asyncio.Event()
        self._links = {
            peer.name: PeerLink(
                peer,
                own_name=self._own_name,
                hop_budget=settings.hop_budget,
                clock=context.clock,
                changed=self._changed,
                looked=self._looked,
            )
            for peer in settings.peers
        }

    async def start(self, publish: Publish) -> None:
        """Begin to watch the peers' catalogs."""
        self._publish, self._published = publish, []
        self._first_looks.clear()
        for link in self._links.values():
            link.start()
        timer = self._clock.call_later(START_WAIT_S, self._first_looks.set)
        try:
            self._looked()
            await self._first_looks.wait()
        finally:
            timer.cancel()

    def _looked(self) -> None:
        if all(link.has_looked for link in self._links.values()):
            self._first_looks.set()

    async def stop(self) -> None:
        """Stop watching, and close all connections."""
        await asyncio.gather(*(link.stop() for link in self._links.values()))

    async def call(self, call: Call) -> Answer:
        """Run one call at its peer."""
        link, at_peer = self._way_to(call.endpoint)
        request = peer_pb2.CallRequest(
            call=request_for(call, at_peer),
            passage=passage_of(call, self._own_name, self._hop_budget),
        )
        return await self._forward(link, call).answer(link.stub.Call, request, metadata_for(call))

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call at its peer and write its answer into `sink`."""
        link, at_peer = self._way_to(call.endpoint)
        request = peer_pb2.StreamCallRequest(
            call=inference_pb2.StreamCallRequest(call=request_for(call, at_peer)),
            passage=passage_of(call, self._own_name, self._hop_budget),
        )
        forward = self._forward(link, call)
        await forward.stream(link.stub.StreamCall, request, metadata_for(call), sink)

    def _forward(self, link: PeerLink, call: Call) -> Forward:
        return Forward(link.name, call, self._watchdog, lambda: link.stub is not None)

    def _way_to(self, endpoint: EndpointId) -> tuple[PeerLink, EndpointId]:
        link = self._links.get(endpoint.replica.partition("/")[0])
        at_peer = link.at_peer(endpoint) if link is not None else None
        if link is None or at_peer is None or link.stub is None:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)
        return link, at_peer

    def _changed(self) -> None:
        reports = nearest(r for link in self._links.values() for r in link.reports())
        if self._publish is not None and reports != self._published:
            self._published = reports
            self._publish(reports)
