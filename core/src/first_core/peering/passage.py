"""How a call came to a gateway: who it passed, for whom it is, and whether it may stay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from first_core.errors import BackendUnavailableError, FirstError, InvalidRequestError
from first_core.types import Principal
from first_proto.peer.v1 import peer_pb2

if TYPE_CHECKING:
    from first_core.domain.calls import IncomingCall
    from first_core.peering.settings import AcceptedPeer
    from first_core.plugin import Call

MAX_ID_CHARS: Final = 256
"""Longest id of a principal that a peer may assert."""

MAX_HOPS_TOLD: Final = 16
"""Most names of a list of hops in an error; longer lists are no peer's of ours."""


def passage_of(call: Call, own_name: str, hop_budget: int) -> peer_pb2.Passage:
    """Return how a call that leaves this gateway came here."""
    return peer_pb2.Passage(
        hops=[*call.hops, own_name],
        hop_budget=min(hop_budget, call.hop_budget or hop_budget),
        principal=peer_pb2.AssertedPrincipal(id=call.principal.id, tenant=call.principal.tenant),
    )


def caller_of(passage: peer_pb2.Passage) -> str:
    """Return the name that the calling gateway gives; empty: none."""
    return passage.hops[-1] if passage.hops else ""


def relayed(
    incoming: IncomingCall,
    passage: peer_pb2.Passage,
    peer: AcceptedPeer,
    *,
    own_name: str,
    hop_budget: int,
) -> IncomingCall:
    """Return a peer's call with what the peer says of it.

    Raises:
        BackendUnavailableError: It was here before, or has passed too many gateways. Not the
            caller's fault, so that the calling gateway goes on to its next candidate.
        InvalidRequestError: The principal's id is too long.
    """
    hops = tuple(passage.hops)
    budget = min(hop_budget, passage.hop_budget or hop_budget)
    if own_name in hops:
        raise _refusal("loop", "the call has been at this gateway before", hops)
    if len(hops) > budget:
        raise _refusal("hop_budget", f"the call has passed more than {budget} gateways", hops)
    return replace(
        incoming, hops=hops, hop_budget=budget, principal=_principal(passage.principal.id, peer)
    )


def _refusal(reason: str, message: str, hops: tuple[str, ...]) -> FirstError:
    return BackendUnavailableError(
        message,
        work_started=False,
        metadata={"reason": reason, "hops": " ".join(hops[:MAX_HOPS_TOLD])},
    )


def _principal(asserted_id: str, peer: AcceptedPeer) -> Principal:
    """Map a peer's principal to ours: its id, marked with the peer, and the tenant set here."""
    if len(asserted_id) > MAX_ID_CHARS:
        raise InvalidRequestError(
            f"`principal.id` is longer than {MAX_ID_CHARS} characters",
            metadata={"field": "principal.id"},
        )
    name = f"{asserted_id}@{peer.name}" if asserted_id else peer.name
    return Principal(name, peer.tenant or peer.name)
