"""Adds `GET` paths; every error of their handlers ends here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

from aiohttp import hdrs, web

from first_core.errors import FirstError
from first_gateway_http.answers import bug, error_answer
from first_gateway_http.dialects import OPENAI
from first_gateway_http.headers import request_id_of
from first_gateway_http.routes.fallback import not_allowed

if TYPE_CHECKING:
    from first_gateway_http.dialects import Dialect

Handler: TypeAlias = Callable[[web.Request, str], Awaitable[web.Response]]
"""Takes a request and its id."""


def openai(_request: web.Request) -> Dialect:
    """Return OpenAI's dialect, whoever asks."""
    return OPENAI


def add_get(
    app: web.Application,
    path: str,
    handler: Handler,
    dialect: Callable[[web.Request], Dialect] = openai,
) -> None:
    """Add one path for `GET` and `HEAD`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        request_id = request_id_of(request.headers)
        try:
            return await handler(request, request_id)
        except FirstError as exc:
            return error_answer(exc, dialect(request), request_id)
        except Exception as exc:
            return error_answer(bug(exc, request_id), dialect(request), request_id)

    resource = app.router.add_resource(path)
    resource.add_route(hdrs.METH_GET, handle)
    resource.add_route(hdrs.METH_HEAD, handle)
    resource.add_route(hdrs.METH_ANY, not_allowed(hdrs.METH_GET, hdrs.METH_HEAD))
