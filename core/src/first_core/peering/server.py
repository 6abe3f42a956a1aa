"""`first.peer.v1.PeerService`: offers the catalog to other gateways, and runs their calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

from grpc import aio

from first_core.client import CHANNEL_OPTIONS
from first_core.errors import FirstError, StartupError
from first_core.peering.certificates import AcceptList, server_credentials
from first_core.peering.offers import offers_for
from first_core.peering.passage import caller_of, relayed
from first_core.peering.settings import FederationSettings
from first_core.plugin import ActiveCalls
from first_core.rpc.counted import counted
from first_core.rpc.edges import abort, send
from first_core.settings import ListenAddress
from first_proto.peer.v1 import peer_pb2, peer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock
    from first_core.domain.calls import IncomingCall
    from first_core.domain.catalog import Catalog
    from first_core.domain.routes import Routes
    from first_core.peering.settings import AcceptedPeer
    from first_core.plugin import PluginSettings
    from first_core.rpc.inference import InferenceServicer
    from first_core.settings import Settings
    from first_proto.v1 import inference_pb2

LAST_WORDS_S: Final = 1.0
"""How long RPCs that were ended may take to say so, in seconds."""

_PING_OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]
"""Peers ping each other to notice a silent connection; by default a server takes pings closer than
five minutes for an attack. Source: gRPC, "Keepalive"."""


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """Answers other gateways.

    Args:
        settings: The section `federation`.
        inference: Runs calls.
        catalog: What there is.
        routes: Returns the routes as they are configured now.
    """

    def __init__(
        self,
        settings: FederationSettings,
        inference: InferenceServicer,
        catalog: Catalog,
        routes: Callable[[], Routes],
    ) -> None:
        self._name = settings.name or ""
        self._has_tls = settings.has_tls
        self._hop_budget = settings.hop_budget
        self._accept = AcceptList(settings.accept, has_tls=settings.has_tls)
        self._inference = inference
        self._catalog = catalog
        self._routes = routes
        self.calls = ActiveCalls()
        """Calls of peers."""
        self._accepted = settings.accept
        self._watches = {peer.name: ActiveCalls() for peer in settings.accept}

    def configure(self, settings: FederationSettings) -> None:
        """Take new terms; watches of peers that are accepted otherwise, or not at all, end."""
        self._hop_budget = settings.hop_budget
        self._accept = AcceptList(settings.accept, has_tls=self._has_tls)
        kept = {peer.name for peer in settings.accept if peer in self._accepted}
        ended = [calls for name, calls in self._watches.items() if name not in kept]
        self._watches = {
            peer.name: self._watches[peer.name] if peer.name in kept else ActiveCalls()
            for peer in settings.accept
        }
        self._accepted = settings.accept
        for calls in ended:
            calls.end_all()

    def end_watches(self) -> None:
        """End all watches, and those that come: this gateway begins to stop."""
        for calls in self._watches.values():
            calls.end_all()

    async def WatchCatalog(  # noqa: N802 - the name of the RPC
        self, request: peer_pb2.WatchCatalogRequest, context: Any
    ) -> None:
        """Stream what is offered, again after each change, until the peer leaves or this stops."""
        try:
            peer = self._accept.identify(context, request.gateway)
        except FirstError as exc:
            await abort(exc, context)
        await counted(self._watches[peer.name], context, lambda: self._watch(peer, context))

    async def _watch(self, peer: AcceptedPeer, context: Any) -> NoReturn:
        told: peer_pb2.WatchCatalogResponse | None = None
        while True:
            change = self._catalog.next_change()
            offers = offers_for(peer.name, self._catalog, self._routes())
            message = peer_pb2.WatchCatalogResponse(gateway=self._name, offers=offers)
            if message != told:
                await send(context.write, message)
                told = message
            await change.wait()

    async def Call(  # noqa: N802 - the name of the RPC
        self, request: peer_pb2.CallRequest, context: Any
    ) -> inference_pb2.CallResponse:
        """Run one call of a peer and return its whole answer."""

        async def run() -> inference_pb2.CallResponse:
            incoming = await self._incoming(request.call, request.passage, context)
            return await self._inference.answer(incoming, context)

        return await counted(self.calls, context, run)

    async def StreamCall(  # noqa: N802 - the name of the RPC
        self, request: peer_pb2.StreamCallRequest, context: Any
    ) -> None:
        """Stream the answer of one call of a peer."""

        async def run() -> None:
            incoming = await self._incoming(request.call.call, request.passage, context)
            await self._inference.stream(incoming, context)

        await counted(self.calls, context, run)

    async def _incoming(
        self, request: inference_pb2.CallRequest, passage: peer_pb2.Passage, context: Any
    ) -> IncomingCall:
        peer = self._accept.identify(context, caller_of(passage))
        incoming = await self._inference.incoming(request, context)
        return relayed(incoming, passage, peer, own_name=self._name, hop_budget=self._hop_budget)


class PeerServer:
    """Serves peers at one address, over TLS unless that address is a loopback one.

    Args:
        settings: The section `federation`, with `listen`.
        servicer: Answers.
        clock: The time.
        max_message_bytes: Largest message.
        drain_s: How long a stop waits for calls in flight, in seconds.
    """

    def __init__(
        self,
        settings: FederationSettings,
        servicer: PeerServicer,
        *,
        clock: Clock,
        max_message_bytes: int,
        drain_s: float,
    ) -> None:
        self._settings = settings
        self._servicer = servicer
        self._clock = clock
        self._max_message_bytes = max_message_bytes
        self._drain_s = drain_s
        self._server: aio.Server | None = None

    async def start(self) -> str:
        """Listen, and return the target that peers connect to.

        Raises:
            StartupError: A file of certificates cannot be read, or the address is taken.
        """
        listen = self._settings.listen or ""
        address = ListenAddress.parse(listen)
        options = [*CHANNEL_OPTIONS, *_PING_OPTIONS, ("grpc.so_reuseport", 0)]
        options.append(("grpc.max_receive_message_length", self._max_message_bytes))
        server = aio.server(options=options)
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self._servicer, server)  # type: ignore[no-untyped-call]
        port = self._bind(server, listen)
        await server.start()
        self._server = server
        return listen if address.unix else f"{address.host}:{port}"

    def _bind(self, server: aio.Server, listen: str) -> int:
        credentials = server_credentials(self._settings)
        try:
            if credentials is None:
                return server.add_insecure_port(listen)
            return server.add_secure_port(listen, credentials)
        except RuntimeError as exc:
            raise StartupError(f"federation.listen: cannot listen on {listen}: {exc}") from exc

    def configure(self, settings: PluginSettings) -> frozenset[str]:
        """Take who may call, and how far; the rest needs a restart.

        Returns:
            What was taken, as `section.field`.
        """
        new = settings.section(FederationSettings)
        taken = {
            f"federation.{field}"
            for field in ("accept", "hop_budget")
            if getattr(new, field) != getattr(self._settings, field)
        }
        if taken:
            update = {"accept": new.accept, "hop_budget": new.hop_budget}
            self._settings = self._settings.model_copy(update=update)
            self._servicer.configure(self._settings)
        return frozenset(taken)

    @property
    def in_flight_count(self) -> int:
        """Calls of peers in flight now."""
        return self._servicer.calls.count

    async def drain(self) -> None:
        """Let peers know at once, refuse new calls, wait for those in flight, then end the rest.

        Safe to repeat.
        """
        self._servicer.end_watches()
        await self._servicer.calls.drain(self._clock, self._drain_s)

    def end_calls(self) -> None:
        """End all calls in flight with an error, now; safe to repeat."""
        self._servicer.calls.end_all()

    async def stop(self) -> None:
        """Drain, then listen no more; safe to repeat."""
        server, self._server = self._server, None
        if server is not None:
            await self.drain()
            await server.stop(LAST_WORDS_S)


def peer_server(
    settings: Settings,
    inference: InferenceServicer,
    catalog: Catalog,
    *,
    routes: Callable[[], Routes],
    clock: Clock,
) -> PeerServer | None:
    """Return the server that the settings ask for; `None`: no peer may call.

    Args:
        settings: The whole tree.
        inference: Runs calls.
        catalog: What there is.
        routes: Returns the routes as they are configured now.
        clock: The time.
    """
    federation = settings.sections.get("federation")
    if not isinstance(federation, FederationSettings) or federation.listen is None:
        return None
    return PeerServer(
        federation,
        PeerServicer(federation, inference, catalog, routes),
        clock=clock,
        max_message_bytes=settings.core.grpc.max_message_bytes,
        drain_s=settings.core.drain_s,
    )
