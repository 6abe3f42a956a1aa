"""Typed asyncio client of the router, over any carrier: in process, link or gRPC.

It raises the same `FirstError`s that the router raised.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from grpc import aio
from grpc.aio import EOF  # type: ignore[attr-defined]  # missing from the stubs

from first_core.link import LinkChannel, LinkOptions
from first_core.wire.status import error_from_rpc
from first_proto.v1 import catalog_pb2, catalog_pb2_grpc, inference_pb2_grpc

if TYPE_CHECKING:
    from first_proto.v1 import inference_pb2

Metadata: TypeAlias = Sequence[tuple[str, str]]
"""Of one call, lower case: `authorization`, `traceparent`, `tracestate`, `x-request-id`."""

Receive: TypeAlias = "Callable[[inference_pb2.StreamCallResponse], Awaitable[None]]"
"""Takes one streamed message. The next one comes when it has returned, so it bounds the rate."""

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_metadata_size", 64 * 1024),
    ("grpc.absolute_max_metadata_size", 64 * 1024),
]
"""The router bounds messages; metadata carries upstream error bodies of up to 8 KiB."""

_RECONNECT_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
"""A router that is back is found within a second or so; by default gRPC waits up to two minutes.
Source: gRPC, "Connection Backoff Protocol"."""

_MAX_ANSWER_BYTES: Final = 2**31 - 1
"""The router bounds answers; this is the largest message of protobuf."""

_RECONNECT_WAIT_S: Final = 1.0
"""How long a call waits for a router that is away, before it fails."""


def connect(target: str) -> aio.Channel:
    """Return a gRPC channel to a router at `host:port` or `unix:path`; it connects on first use."""
    return aio.insecure_channel(target, options=[*CHANNEL_OPTIONS, *_RECONNECT_OPTIONS])


def connect_link(target: str) -> LinkChannel:
    """Return a channel that carries all calls to a router over one stream.

    It dials with the first call. A router that takes no links gets one gRPC call per call.
    """
    options = LinkOptions(
        max_message_bytes=_MAX_ANSWER_BYTES, max_call_count=0, reconnect_wait_s=_RECONNECT_WAIT_S
    )
    return LinkChannel(connect(target), options=options, fall_back=True)


class RouterClient:
    """Calls a router.

    Args:
        channel: A `grpc.aio.Channel`, a link, or the in-process channel of the router's own
            process. The caller closes it.
    """

    def __init__(self, channel: Any) -> None:
        self._inference = inference_pb2_grpc.InferenceServiceStub(channel)  # type: ignore[no-untyped-call]
        self._catalog = catalog_pb2_grpc.CatalogServiceStub(channel)  # type: ignore[no-untyped-call]

    async def call(
        self,
        request: inference_pb2.CallRequest,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> inference_pb2.CallResponse:
        """Run one call and return its whole answer.

        Cancelling the `asyncio.Task` stops the work at the endpoint.

        Raises:
            FirstError: Any of the tree.
        """
        try:
            response: inference_pb2.CallResponse = await self._inference.Call(
                request, metadata=metadata, timeout=timeout_s
            )
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        return response

    async def stream(
        self,
        request: inference_pb2.StreamCallRequest,
        receive: Receive,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
    ) -> None:
        """Run one call and hand each message of its answer to `receive`.

        Returns after the trailer; what `receive` raises ends the call and passes through.
        Cancelling the `asyncio.Task` stops the work at the endpoint.

        Raises:
            FirstError: Any of the tree; after the first chunk `StreamTruncatedError` or
                `BackendTimeoutError`.
        """
        call = self._inference.StreamCall(request, metadata=metadata, timeout=timeout_s)
        push_into = getattr(call, "push_into", None)
        try:
            if push_into is not None:
                await push_into(receive)
            else:
                await _pull(call, receive)
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc

    async def list_models(
        self, *, cluster: str = "", framework: str = "", metadata: Metadata = ()
    ) -> list[catalog_pb2.Model]:
        """Return the models that the caller may use, sorted by id."""
        request = catalog_pb2.ListModelsRequest(cluster=cluster, framework=framework)
        try:
            response = await self._catalog.ListModels(request, metadata=metadata)
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        return list(response.models)

    async def get_model(self, model: str, *, metadata: Metadata = ()) -> catalog_pb2.Model:
        """Return one model.

        Raises:
            NotFoundError: There is no such model.
        """
        request = catalog_pb2.GetModelRequest(id=model)
        try:
            response = await self._catalog.GetModel(request, metadata=metadata)
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        found: catalog_pb2.Model = response.model
        return found

    async def list_endpoints(
        self, *, model: str = "", metadata: Metadata = ()
    ) -> list[catalog_pb2.Endpoint]:
        """Return the endpoints that the caller may use, sorted by name."""
        return list((await self.overview(model=model, metadata=metadata)).endpoints)

    async def overview(
        self, *, model: str = "", metadata: Metadata = ()
    ) -> catalog_pb2.ListEndpointsResponse:
        """Return the endpoints that the caller may use, and what is known beside them."""
        request = catalog_pb2.ListEndpointsRequest(model=model)
        try:
            response: catalog_pb2.ListEndpointsResponse = await self._catalog.ListEndpoints(
                request, metadata=metadata
            )
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        return response

    async def explain_route(
        self, request: catalog_pb2.ExplainRouteRequest, *, metadata: Metadata = ()
    ) -> catalog_pb2.ExplainRouteResponse:
        """Return where a call would go now, and why; nothing is called.

        Raises:
            NotFoundError: There is no such model.
        """
        try:
            response: catalog_pb2.ExplainRouteResponse = await self._catalog.ExplainRoute(
                request, metadata=metadata
            )
        except aio.AioRpcError as exc:
            raise error_from_rpc(exc) from exc
        return response


async def _pull(call: Any, receive: Receive) -> None:
    try:
        while (message := await call.read()) is not EOF:
            await receive(message)
    finally:
        call.cancel()  # no effect on a call that has ended


__all__ = ["CHANNEL_OPTIONS", "Metadata", "Receive", "RouterClient", "connect", "connect_link"]
