"""Paths that lead nowhere, and methods that a path does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from first_gateway_http.answers import error_answer
from first_gateway_http.cors import answer_preflight
from first_gateway_http.dialects import dialect_of_path
from first_gateway_http.errors import RefusedError
from first_gateway_http.headers import request_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def not_allowed(*methods: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return the handler of a path's other methods; it answers preflights too."""
    allow = ", ".join(methods)

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == hdrs.METH_OPTIONS and (answer := answer_preflight(request, allow)):
            return answer
        error = RefusedError(
            f"{request.method} is not possible here; use {allow}",
            status=405,
            code="method_not_allowed",
            allow=allow,
        )
        return _refuse(request, error)

    return handle


async def not_found(request: web.Request) -> web.StreamResponse:
    """Answer a path that leads nowhere."""
    error = RefusedError(
        f"there is nothing at {request.method} {request.path}; the API begins at /v1",
        status=404,
        code="route_not_found",
    )
    return _refuse(request, error)


def _refuse(request: web.Request, error: RefusedError) -> web.Response:
    return error_answer(error, dialect_of_path(request.path), request_id_of(request.headers))
