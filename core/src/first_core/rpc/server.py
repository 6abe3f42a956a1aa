"""The router's gRPC server: our services, and the standard health and reflection ones."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from grpc import aio

from first_core.client import CHANNEL_OPTIONS
from first_core.errors import StartupError
from first_core.link import MAX_BATCH_BYTES, LinkOptions, LinkServer
from first_core.plugin import ActiveCalls
from first_core.rpc.counted import CountedInference
from first_core.settings import ListenAddress, require_loopback
from first_proto.link.v1 import link_pb2_grpc
from first_proto.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.rpc.catalog import CatalogServicer
    from first_core.rpc.inference import InferenceServicer
    from first_core.settings import GrpcSettings


LAST_WORDS_S: Final = 1.0
"""Longest wait for the last statuses on their way to clients, in seconds."""


def add_services(
    target: Any,
    inference: InferenceServicer | CountedInference,
    catalog: CatalogServicer,
) -> None:
    """Register our services on a `grpc.aio.Server` for links, or on the in-process channel."""
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, target)  # type: ignore[no-untyped-call]
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(catalog, target)  # type: ignore[no-untyped-call]


class GrpcServer:
    """Serves a router's services at one address.

    Args:
        settings: Where to listen, and the largest message.
        inference: Runs calls.
        catalog: Tells what there is.
        clock: The time.
        drain_s: How long a stop waits for calls in flight, in seconds.
        reuse_port: Whether several processes listen on this port.
    """

    def __init__(
        self,
        settings: GrpcSettings,
        inference: InferenceServicer,
        catalog: CatalogServicer,
        *,
        clock: Clock,
        drain_s: float,
        reuse_port: bool = False,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._drain_s = drain_s
        self._reuse_port = reuse_port
        self._calls = ActiveCalls()
        self._inference = CountedInference(inference, self._calls)
        self._catalog = catalog
        self._links = LinkServer(options=LinkOptions(max_message_bytes=settings.max_message_bytes))
        add_services(self._links, self._inference, catalog)
        self._server: aio.Server | None = None
        self._health: Any = None

    async def start(self) -> str:
        """Listen, and return the target that clients connect to.

        Raises:
            StartupError: The address is not allowed, or taken.
        """
        listen = self._settings.listen or ""
        address = ListenAddress.parse(listen)
        require_loopback(address)
        options = [*CHANNEL_OPTIONS, ("grpc.so_reuseport", int(self._reuse_port))]
        largest = max(self._settings.max_message_bytes, MAX_BATCH_BYTES)
        options.append(("grpc.max_receive_message_length", largest))
        server = aio.server(options=options)
        add_services(server, self._inference, self._catalog)
        link_pb2_grpc.add_LinkServiceServicer_to_server(self._links, server)  # type: ignore[no-untyped-call]
        self._add_standard_services(server)
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as exc:
            raise StartupError(f"grpc.listen: cannot listen on {listen}: {exc}") from exc
        await server.start()
        self._server = server
        return listen if address.unix else f"{address.host}:{port}"

    def _add_standard_services(self, server: aio.Server) -> None:
        from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415 - only a server
        from grpc_health.v1._async import HealthServicer  # noqa: PLC0415
        from grpc_reflection.v1alpha import reflection  # noqa: PLC0415

        names = [
            inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name,
            catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name,
        ]
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        reflection.enable_server_reflection([*names, health_name, reflection.SERVICE_NAME], server)
        self._serving = health_pb2.HealthCheckResponse.SERVING
        self._names = ["", *names]

    @property
    def in_flight_count(self) -> int:
        """Calls of gRPC clients in flight now."""
        return self._calls.count

    async def drain(self) -> None:
        """Say NOT_SERVING, refuse new calls, wait for those in flight, end the rest after a bound.

        Safe to repeat.
        """
        self._calls.stop()
        if self._server is not None:
            await self._health.enter_graceful_shutdown()
        await self._calls.drain(self._clock, self._drain_s)

    def end_calls(self) -> None:
        """End all calls in flight with an error, now; safe to repeat."""
        self._calls.end_all()

    async def stop(self) -> None:
        """Drain, then listen no more; safe to repeat."""
        if self._server is None:
            return
        await self.drain()
        self._catalog.end_watches()
        server, self._server = self._server, None
        if server is not None:
            await asyncio.gather(self._links.stop(LAST_WORDS_S), server.stop(LAST_WORDS_S))

    async def mark_serving(self) -> None:
        """Let the health service say SERVING."""
        for name in self._names:
            await self._health.set(name, self._serving)
