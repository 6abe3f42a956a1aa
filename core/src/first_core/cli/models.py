"""`first models`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import click

from first_core.cli import options
from first_core.cli.tables import table
from first_core.types import EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_proto.v1 import catalog_pb2


_HEADERS: Final = {
    "id": "model",
    "context_window_token_count": "context",
    "running_count": "running",
    "waiting_count": "waiting",
    "state_reason": "reason",
}
"""What a column is called where its key would be wider than its cells."""


@click.command("models")
@options.router
@click.option("--endpoints", is_flag=True, help="One line per endpoint instead of per model.")
@options.as_json
def command(router_target: str, endpoints: bool, as_json: bool) -> None:  # noqa: FBT001 - click
    """List models and endpoints, with their state."""
    models, found = asyncio.run(_fetch(router_target))
    clusters = _clusters(found)
    rows: Sequence[dict[str, Any]]
    if endpoints:
        rows = [_endpoint(endpoint) for endpoint in found]
    else:
        rows = [_model(model, clusters.get(model.id, [])) for model in models]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        header = [_HEADERS.get(key, key).upper() for key in rows[0]]
        click.echo(table(header, [[_cell(value) for value in row.values()] for row in rows]))
    else:
        click.echo("no models: the router knows no upstream that answered", err=True)


async def _fetch(target: str) -> tuple[list[catalog_pb2.Model], list[catalog_pb2.Endpoint]]:
    from first_core.cli.remote import router_client  # noqa: PLC0415 - heavy, not for --help

    async with router_client(target) as client:
        return await client.list_models(), await client.list_endpoints()


def _clusters(endpoints: Sequence[catalog_pb2.Endpoint]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for endpoint in endpoints:
        clusters = found.setdefault(endpoint.ref.model, [])
        if endpoint.ref.cluster not in clusters:
            clusters.append(endpoint.ref.cluster)
    return found


def _model(model: catalog_pb2.Model, clusters: list[str]) -> dict[str, Any]:
    return {
        "id": model.id,
        "state": _state(model.state),
        "clusters": clusters,
        "context_window_token_count": model.context_window_token_count or None,
        "operations": _operations(model.operations),
    }


def _endpoint(endpoint: catalog_pb2.Endpoint) -> dict[str, Any]:
    ref, load = endpoint.ref, endpoint.load
    knows_load = endpoint.HasField("load")
    return {
        "cluster": ref.cluster,
        "framework": ref.framework,
        "model": ref.model,
        "replica": ref.replica,
        "state": _state(endpoint.state),
        "backend": endpoint.backend,
        "running_count": load.running_count if knows_load else None,
        "waiting_count": load.waiting_count if knows_load else None,
        "state_reason": endpoint.state_reason,
    }


def _state(number: int) -> str:
    # A newer router may know more states.
    known = EndpointState._value2member_map_
    return EndpointState(number).name.lower() if number in known else str(number)


def _operations(numbers: Sequence[int]) -> list[str]:
    known = Operation._value2member_map_
    return [Operation(n).name.lower() if n in known else str(n) for n in numbers]


def _cell(value: object) -> str:
    if value == _operations(sorted(Operation)):
        return "all"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None or value == "" else str(value)
