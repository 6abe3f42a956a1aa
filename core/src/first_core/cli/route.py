"""`first route`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import click

from first_core.cli import options
from first_core.cli.tables import table
from first_core.types import EndpointState, Operation

if TYPE_CHECKING:
    from first_proto.v1 import catalog_pb2

_HEADER = ("", "CLUSTER", "FRAMEWORK", "REPLICA", "STATE", "IN FLIGHT", "QUEUED", "POLICY", "WHY")


@click.group("route")
def command() -> None:
    """Explain where a call would go, and why."""


@command.command("explain")
@click.argument("model")
@options.router
@click.option(
    "--operation",
    type=click.Choice([operation.name.lower() for operation in Operation]),
    default="chat",
    show_default=True,
    help="What would be asked.",
)
@click.option("--cluster", default="", help="Only endpoints of this cluster.")
@click.option("--framework", default="", help="Only endpoints of this framework.")
@click.option("--session", "session_key", default="", help="Session that the call belongs to.")
@options.as_json
def explain(  # noqa: PLR0917 - click passes them by name
    model: str,
    router_target: str,
    operation: str,
    cluster: str,
    framework: str,
    session_key: str,
    as_json: bool,  # noqa: FBT001 - click
) -> None:
    """Tell which endpoint a call to MODEL would go to now, and why not to the others.

    Nothing is called and nothing changes.
    """
    from first_proto.v1 import catalog_pb2 as pb2  # noqa: PLC0415 - heavy, not for --help

    request = pb2.ExplainRouteRequest(
        model=model,
        operation=Operation[operation.upper()].value,  # type: ignore[arg-type]  # numbers are equal
        cluster=cluster,
        framework=framework,
        session_key=session_key,
    )
    found = asyncio.run(_fetch(router_target, request))
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
        return
    click.echo(f"model {found.model}, policy {found.policy}: {found.outcome}")
    if found.fallbacks:
        click.echo(f"fallbacks: {', '.join(found.fallbacks)}")
    click.echo(table(_HEADER, [_row(candidate) for candidate in found.candidates]))


async def _fetch(
    target: str, request: catalog_pb2.ExplainRouteRequest
) -> catalog_pb2.ExplainRouteResponse:
    from first_core.cli.remote import router_client  # noqa: PLC0415 - heavy, not for --help

    async with router_client(target) as client:
        return await client.explain_route(request)


def _row(candidate: catalog_pb2.RouteCandidate) -> tuple[str, ...]:
    ref = candidate.endpoint.ref
    bound = f" of {candidate.in_flight_limit}" if candidate.HasField("in_flight_limit") else ""
    return (
        "->" if candidate.chosen else "",
        ref.cluster,
        ref.framework,
        ref.replica or "-",
        _state(candidate.endpoint.state),
        f"{candidate.in_flight_count}{bound}",
        str(candidate.queued_count),
        candidate.policy_note,
        candidate.reason,
    )


def _document(found: catalog_pb2.ExplainRouteResponse) -> dict[str, Any]:
    return {
        "model": found.model,
        "policy": found.policy,
        "outcome": found.outcome,
        "fallbacks": list(found.fallbacks),
        "candidates": [_candidate(candidate) for candidate in found.candidates],
    }


def _candidate(candidate: catalog_pb2.RouteCandidate) -> dict[str, Any]:
    ref, load = candidate.endpoint.ref, candidate.endpoint.load
    has = candidate.HasField
    knows_load = candidate.endpoint.HasField("load")
    return {
        "chosen": candidate.chosen,
        "reason": candidate.reason,
        "cluster": ref.cluster,
        "framework": ref.framework,
        "model": ref.model,
        "replica": ref.replica,
        "state": _state(candidate.endpoint.state),
        "policy_note": candidate.policy_note,
        "weight": candidate.weight,
        "in_flight_count": candidate.in_flight_count,
        "in_flight_limit": candidate.in_flight_limit if has("in_flight_limit") else None,
        "queued_count": candidate.queued_count,
        "running_count": load.running_count if knows_load else None,
        "waiting_count": load.waiting_count if knows_load else None,
        "first_chunk_s": _seconds(candidate.first_chunk_time) if has("first_chunk_time") else None,
        "breaker_open": candidate.breaker_open,
        "spared_s": _seconds(candidate.spared_time) if has("spared_time") else None,
    }


def _seconds(duration: Any) -> float:
    seconds: float = duration.ToTimedelta().total_seconds()
    return seconds


def _state(number: int) -> str:
    known = EndpointState._value2member_map_
    return EndpointState(number).name.lower() if number in known else str(number)
