"""`first.v1.CatalogService`: tells what the router knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from first_core.domain.explaining import Wish, explain_route
from first_core.errors import InvalidRequestError, NotFoundError
from first_core.plugin import ActiveCalls
from first_core.rpc.counted import counted
from first_core.rpc.edges import abort, send
from first_core.types import Pin
from first_core.wire import convert
from first_proto.v1 import catalog_pb2, catalog_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.domain.catalog import Catalog
    from first_core.domain.routes import Routes


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers from memory.

    Args:
        catalog: What the router knows.
        routes: Returns the routes as they are configured now.
    """

    def __init__(self, catalog: Catalog, routes: Callable[[], Routes]) -> None:
        self._catalog = catalog
        self._routes = routes
        self._watches = ActiveCalls()

    def end_watches(self) -> None:
        """End all watches with an error, now, and refuse new ones; safe to repeat."""
        self._watches.end_all()

    async def ListModels(  # noqa: N802 - the name of the RPC
        self, request: catalog_pb2.ListModelsRequest, _context: Any
    ) -> catalog_pb2.ListModelsResponse:
        """List the models."""
        models = self._routes().models(cluster=request.cluster, framework=request.framework)
        return catalog_pb2.ListModelsResponse(models=map(convert.model_message, models))

    async def GetModel(  # noqa: N802 - the name of the RPC
        self, request: catalog_pb2.GetModelRequest, context: Any
    ) -> catalog_pb2.GetModelResponse:
        """Return one model."""
        model = self._routes().model(request.id)
        if model is None:
            error = NotFoundError(
                f"the model {request.id!r} does not exist", metadata={"model": request.id}
            )
            await abort(error, context)
        return catalog_pb2.GetModelResponse(model=convert.model_message(model))

    async def ListEndpoints(  # noqa: N802 - the name of the RPC
        self, request: catalog_pb2.ListEndpointsRequest, _context: Any
    ) -> catalog_pb2.ListEndpointsResponse:
        """List the endpoints."""
        found = [e for e in self._catalog.endpoints() if request.model in ("", e.id.model)]
        return catalog_pb2.ListEndpointsResponse(
            endpoints=map(convert.endpoint_message, found),
            idle_backends=self._catalog.idle_backends(),
        )

    async def ExplainRoute(  # noqa: N802 - the name of the RPC
        self, request: catalog_pb2.ExplainRouteRequest, context: Any
    ) -> catalog_pb2.ExplainRouteResponse:
        """Tell where a call would go."""
        operation = convert.operation_of(request.operation)
        if operation is None:
            known = InvalidRequestError("`operation` is not known", metadata={"field": "operation"})
            await abort(known, context)
        found = explain_route(
            self._routes(),
            Wish(
                request.model,
                operation,
                Pin(request.cluster, request.framework, request.replica),
                request.session_key,
            ),
            self._catalog.now_s(),
        )
        if found is None:
            error = NotFoundError(
                f"the model {request.model!r} does not exist", metadata={"model": request.model}
            )
            await abort(error, context)
        return convert.explanation_message(found)

    async def WatchEndpoints(  # noqa: N802 - the name of the RPC
        self, _request: catalog_pb2.WatchEndpointsRequest, context: Any
    ) -> None:
        """Stream the endpoints, again after each change, until the client leaves."""
        await counted(self._watches, context, lambda: self._watch(context))

    async def _watch(self, context: Any) -> None:
        while True:
            change = self._catalog.next_change()
            found = map(convert.endpoint_message, self._catalog.endpoints())
            await send(context.write, catalog_pb2.WatchEndpointsResponse(endpoints=found))
            await change.wait()
