"""The models that the caller may use."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from first_gateway_http.answers import json_answer
from first_gateway_http.dialects import ANTHROPIC, OPENAI
from first_gateway_http.headers import metadata_of
from first_gateway_http.routes.edge import add_get

if TYPE_CHECKING:
    from aiohttp import web

    from first_gateway_http.dialects import Dialect
    from first_gateway_http.gateway import Gateway
    from first_proto.v1.catalog_pb2 import Model

BASES = ("/v1", "/resource_server/v1")


def add_model_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the list of models, and each model."""
    models = Models(gateway)
    for base in BASES:
        add_get(app, f"{base}/models", models.list, dialect_for)
        add_get(app, f"{base}/models/{{id:.+}}", models.get, dialect_for)


def dialect_for(request: web.Request) -> Dialect:
    """Return the client's dialect: both have these paths, and Anthropic's name their version."""
    return ANTHROPIC if "anthropic-version" in request.headers else OPENAI


class Models:
    """Answers from the router's catalog."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def list(self, request: web.Request, request_id: str) -> web.Response:
        """Return all models, whole: a catalog has some thousand at most."""
        metadata = metadata_of(request.headers, request_id)
        models = await self._gateway.client.list_models(metadata=metadata)
        if dialect_for(request) is ANTHROPIC:
            return json_answer(_anthropic_list(models), request_id)
        data = [_openai_model(model) for model in models]
        return json_answer({"object": "list", "data": data}, request_id)

    async def get(self, request: web.Request, request_id: str) -> web.Response:
        """Return one model."""
        metadata = metadata_of(request.headers, request_id)
        model = await self._gateway.client.get_model(request.match_info["id"], metadata=metadata)
        shape = _anthropic_model if dialect_for(request) is ANTHROPIC else _openai_model
        return json_answer(shape(model), request_id)


def _openai_model(model: Model) -> dict[str, Any]:
    shown = {
        "id": model.id,
        "object": "model",
        "created": model.create_time.ToSeconds(),
        "owned_by": model.owner,
    }
    if model.context_window_token_count:
        shown["max_model_len"] = model.context_window_token_count  # as vLLM calls it
    return shown


def _anthropic_model(model: Model) -> dict[str, Any]:
    created = model.create_time.ToDatetime(dt.UTC).isoformat(timespec="seconds")
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": created.replace("+00:00", "Z"),
    }


def _anthropic_list(models: list[Model]) -> dict[str, Any]:
    return {
        "data": [_anthropic_model(model) for model in models],
        "has_more": False,
        "first_id": models[0].id if models else None,
        "last_id": models[-1].id if models else None,
    }
