"""How the gateway is: for people, balancers and Prometheus."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from first_core.errors import BackendError, InternalError
from first_core.types import EndpointState
from first_gateway_http.answers import base_headers, json_answer
from first_gateway_http.headers import metadata_of
from first_gateway_http.routes.edge import add_get
from first_proto.v1.catalog_pb2 import ListEndpointsResponse

if TYPE_CHECKING:
    from first_gateway_http.gateway import Gateway
    from first_proto.v1.catalog_pb2 import Endpoint

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>FIRST gateway</title>
<h1>FIRST gateway</h1>
<p>An inference gateway. Point an OpenAI client at <code>/v1</code>, an Anthropic client at this
address.</p>
<ul><li><a href="/v1/models">/v1/models</a>: what it serves
<li><a href="/ready">/ready</a>: whether it takes calls
<li><a href="/metrics">/metrics</a>: counts, for Prometheus</ul>
</html>
"""

MAX_AWAY: Final = 20
"""Endpoints that are named as not ready; the counts tell of all."""

_INDEX = {
    "name": "FIRST gateway",
    "openai_base_url": "/v1",
    "anthropic_base_url": "/",
    "models": "/v1/models",
    "health": "/health",
    "ready": "/ready",
    "metrics": "/metrics",
}


def add_health_routes(app: web.Application, gateway: Gateway) -> None:
    """Add what is open to everybody who reaches the address."""
    health = Health(gateway)
    add_get(app, "/", health.index)
    add_get(app, "/health", health.health)
    add_get(app, "/ready", health.ready)
    add_get(app, "/metrics", health.metrics)


class Health:
    """Answers about this process, and the endpoints behind it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def index(self, request: web.Request, request_id: str) -> web.Response:
        """Tell what this is and where the API begins."""
        if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
            headers = base_headers("text/html; charset=utf-8", request_id)
            return web.Response(body=_PAGE.encode(), headers=headers)
        return json_answer(_INDEX, request_id)

    async def health(self, _request: web.Request, request_id: str) -> web.Response:
        """Tell that the process lives; asks nobody."""
        return json_answer({"status": "ok"}, request_id)

    async def ready(self, request: web.Request, request_id: str) -> web.Response:
        """Tell whether a call could succeed now, and if not, what is missing."""
        metadata = metadata_of(request.headers, request_id)
        found = ListEndpointsResponse()
        states: Counter[str] = Counter()
        try:
            found = await self._gateway.client.overview(metadata=metadata)
        except (BackendError, InternalError):
            missing = "the router does not answer"
        else:
            states.update(_state_name(endpoint.state) for endpoint in found.endpoints)
            missing = self._missing(states)
        away = [_words(e) for e in found.endpoints if e.state != EndpointState.READY.value]
        answer = {
            "status": "not_ready" if missing else "ready",
            **({"missing": missing} if missing else {}),
            "endpoints": dict(sorted(states.items())),
            **({"away": away[:MAX_AWAY]} if away else {}),
            **({"idle_backends": list(found.idle_backends)} if found.idle_backends else {}),
        }
        return json_answer(answer, request_id, status=503 if missing else 200)

    def _missing(self, states: Counter[str]) -> str:
        if self._gateway.calls.is_stopping:
            return f"draining: {self._gateway.calls.count} calls in flight, no new ones"
        if not states:
            return "no endpoint is known; configure one, or start an inference server"
        if not states["ready"]:
            return "no endpoint is ready"
        return ""

    async def metrics(self, _request: web.Request, request_id: str) -> web.Response:
        """Return the counts of this process in Prometheus' text format."""
        body, content_type = self._gateway.telemetry.metrics.render()
        return web.Response(body=body, headers=base_headers(content_type, request_id))


def _words(endpoint: Endpoint) -> str:
    """Return which endpoint it is and where it stands; the reason may name hosts, so it is left."""
    ref = endpoint.ref
    parts = (ref.cluster, ref.framework, ref.model, ref.replica)
    return f"{'/'.join(part for part in parts if part)} is {_state_name(endpoint.state)}"


def _state_name(state: int) -> str:
    try:
        return EndpointState(state).name.lower()
    except ValueError:
        return "unknown"
