"""Lets pages of some origins call the gateway from a browser (Fetch standard, "CORS protocol")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from first_gateway_http.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

EXPOSED: Final = "x-request-id, x-first-endpoint, x-first-attempts, retry-after"
"""Headers of answers that a page may read."""

MAX_AGE_S: Final = 600
"""How long a browser may keep the answer to a preflight, in seconds."""


def allowed_origin(origin: str | None, origins: Sequence[str]) -> str | None:
    """Return the origin to allow; `None`: this one may not call."""
    if origin is None:
        return None
    return origin if origin in origins or "*" in origins else None


def answer_preflight(request: web.Request, methods: str) -> web.Response | None:
    """Answer a browser that asks whether a page may call; `None`: it is no such question."""
    origins = request.app[GATEWAY].settings.cors_allow_origins
    if hdrs.ACCESS_CONTROL_REQUEST_METHOD not in request.headers:
        return None
    if allowed_origin(request.headers.get(hdrs.ORIGIN), origins) is None:
        return None
    headers = {
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: methods,
        hdrs.ACCESS_CONTROL_MAX_AGE: str(MAX_AGE_S),
    }
    wanted = request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS)
    if wanted:
        headers[hdrs.ACCESS_CONTROL_ALLOW_HEADERS] = wanted
    return web.Response(status=204, headers=headers)


def header_writer(
    origins: Sequence[str],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Return what adds the headers to each answer; for `Application.on_response_prepare`."""

    async def add(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)
        origin = allowed_origin(request.headers.get(hdrs.ORIGIN), origins)
        if origin is not None:
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = EXPOSED

    return add
