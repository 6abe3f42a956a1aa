"""What a gateway takes of its peers' offers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from first_core.peering.offers import nearest, reports_of
from first_core.testing.scripted import ready
from first_core.types import EndpointId, EndpointState, Operation
from first_proto.peer.v1 import peer_pb2
from first_proto.v1 import common_pb2


def offer(*via: str, replica: str = "", **fields: object) -> peer_pb2.Offer:
    ref = common_pb2.EndpointRef(cluster="c", framework="f", model="m", replica=replica)
    return peer_pb2.Offer(ref=ref, via=via, state=4, operations=[1], **fields)


def taken(*offers: peer_pb2.Offer, hop_budget: int = 3):
    return [report for report, _ in reports_of("b", "a", hop_budget, offers)]


@pytest.mark.parametrize(
    ("replica", "expected"), [("", "b"), ("r", "b/r"), ("c", "b/c")]
)  # fmt: skip
def test_an_endpoint_has_its_peer_as_replica(replica, expected):
    """What the peer calls its replica follows the peer's name."""
    [(report, at_peer)] = reports_of("b", "a", 3, [offer(replica=replica)])

    assert report.id == EndpointId("c", "f", "m", expected)
    assert at_peer == EndpointId("c", "f", "m", replica)
    assert report.via == ("b",)


def test_what_leads_back_is_dropped():
    """An offer that passes this gateway, or ends at it, is no use."""
    assert taken(offer("a"), offer("c", "a"), offer("a", "c")) == []


def test_what_is_too_far_is_dropped():
    """The peer itself and all behind it count against the budget."""
    assert len(taken(offer("c", "d"), hop_budget=3)) == 1
    assert taken(offer("c", "d"), hop_budget=2) == []


def test_words_of_a_newer_peer_are_not_fatal():
    """An operation that is not known is left out, a state that is not known means down."""
    [report] = taken(peer_pb2.Offer(ref=offer().ref, state=99, operations=[1, 99]))

    assert report.state is EndpointState.DOWN
    assert report.operations == {Operation.CHAT}


def report(replica: str, *via: str, state: EndpointState = EndpointState.READY):
    endpoint = EndpointId("c", "f", "m", replica)
    return replace(ready(), id=endpoint, via=via, state=state)


def test_the_shortest_way_to_an_endpoint_is_kept():
    """The same endpoint of the same gateway is counted once."""
    direct, around = report("d", "d"), report("b/d", "b", "d")

    assert nearest([around, direct]) == [direct]


def test_a_way_that_is_ready_beats_a_shorter_one():
    """While the direct way is broken the other one is taken."""
    down, around = report("d", "d", state=EndpointState.DOWN), report("b/d", "b", "d")

    assert nearest([down, around]) == [around]


def test_replicas_and_gateways_are_told_apart():
    """Two servers of one gateway, and equal names at two gateways, are four endpoints."""
    reports = [report(f"{peer}/{r}", peer) for peer in ("b", "d") for r in ("r1", "r2")]

    assert len(nearest(reports)) == 4
