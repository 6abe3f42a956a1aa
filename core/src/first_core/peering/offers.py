"""Between offers of `first.peer.v1` and what a catalog knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.plugin import EndpointReport
from first_core.types import EndpointId, EndpointLoad, EndpointState, Operation
from first_core.wire.convert import endpoint_message
from first_proto.peer.v1 import peer_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from first_core.domain.catalog import Catalog, Endpoint
    from first_core.domain.routes import Routes
    from first_proto.v1 import catalog_pb2

_OPERATIONS: Final = {int(operation): operation for operation in Operation}
_STATES: Final = {int(state): state for state in EndpointState}


def offers_for(watcher: str, catalog: Catalog, routes: Routes) -> list[peer_pb2.Offer]:
    """Return what a peer is offered, the nearest first.

    What was learned through the peer is not offered back to it; and only what a client here could
    reach by the same name is offered.
    """
    found = [
        endpoint
        for endpoint in catalog.endpoints()
        if watcher not in endpoint.report.via and _is_routed(endpoint, routes)
    ]
    found.sort(key=lambda endpoint: len(endpoint.report.via))
    return [_offer(endpoint) for endpoint in found]


def _is_routed(endpoint: Endpoint, routes: Routes) -> bool:
    route = routes.resolve(endpoint.id.model)
    return route is not None and any(target.endpoint is endpoint for target in route.targets)


def _offer(endpoint: Endpoint) -> peer_pb2.Offer:
    report = endpoint.report
    message = endpoint_message(endpoint)
    return peer_pb2.Offer(
        ref=message.ref,
        state=message.state,
        state_reason=message.state_reason,
        operations=message.operations,
        load=message.load if message.HasField("load") else None,
        context_window_token_count=report.context_window_token_count,
        expected_wait=message.expected_wait if message.HasField("expected_wait") else None,
        continues_messages=report.continues_messages,
        streams_usage=report.streams_usage,
        via=report.via,
        owner=report.owner,
    )


def reports_of(
    peer: str, own_name: str, hop_budget: int, offers: Iterable[peer_pb2.Offer]
) -> Iterator[tuple[EndpointReport, EndpointId]]:
    """Yield each usable offer of a peer as a report, with the endpoint's name at the peer.

    Args:
        peer: Name of the peer.
        own_name: Name of this gateway; what lies behind it is no use.
        hop_budget: Most gateways that a call may pass.
        offers: What the peer offers.
    """
    for offer in offers:
        via = (peer, *offer.via)
        if own_name not in via and len(via) <= hop_budget:
            yield _report(peer, via, offer), _endpoint_id(offer)


def _endpoint_id(offer: peer_pb2.Offer) -> EndpointId:
    ref = offer.ref
    return EndpointId(ref.cluster, ref.framework, ref.model, ref.replica)


def _report(peer: str, via: tuple[str, ...], offer: peer_pb2.Offer) -> EndpointReport:
    ref = offer.ref
    replica = f"{peer}/{ref.replica}" if ref.replica else peer
    known = {_OPERATIONS[number] for number in offer.operations if number in _OPERATIONS}
    wait = offer.expected_wait
    return EndpointReport(
        id=EndpointId(ref.cluster, ref.framework, ref.model, replica),
        served_model=ref.model,
        operations=frozenset(known),
        state=_STATES.get(offer.state, EndpointState.DOWN),
        state_reason=offer.state_reason,
        owner=offer.owner,
        context_window_token_count=offer.context_window_token_count,
        expected_wait_s=wait.ToMilliseconds() / 1000 if offer.HasField("expected_wait") else None,
        load=_load(offer.load) if offer.HasField("load") else None,
        continues_messages=offer.continues_messages,
        streams_usage=offer.streams_usage,
        via=via,
    )


def _load(load: catalog_pb2.EndpointLoad) -> EndpointLoad:
    return EndpointLoad(load.running_count, load.waiting_count, load.cache_usage_ratio)


def nearest(reports: Iterable[EndpointReport]) -> list[EndpointReport]:
    """Return the reports with one way to each endpoint: one that is ready, then the shortest.

    In a mesh of gateways the same endpoint is offered by several peers; counting it as often would
    send it as many times its share.
    """
    best: dict[EndpointId, EndpointReport] = {}
    for report in reports:
        origin = _at_origin(report)
        other = best.get(origin)
        if other is None or _rank(report) < _rank(other):
            best[origin] = report
    return sorted(best.values(), key=lambda report: len(report.via))


def _at_origin(report: EndpointReport) -> EndpointId:
    """Return the endpoint's name at its own gateway, with that gateway's name before the replica.

    Each gateway on the way has put one name before the replica.
    """
    own = report.id.replica.split("/")[len(report.via) :]
    replica = "/".join([report.via[-1], *own])
    return EndpointId(report.id.cluster, report.id.framework, report.id.model, replica)


def _rank(report: EndpointReport) -> tuple[bool, int]:
    return report.state is not EndpointState.READY, len(report.via)
