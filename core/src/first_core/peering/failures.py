"""What a failed RPC to a peer means for the call: one of our errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    CallerError,
    FirstError,
    InternalError,
    InvalidRequestError,
    StreamTruncatedError,
    UpstreamRejectedError,
)
from first_core.wire.status import DETAILS_KEY, error_from_rpc

if TYPE_CHECKING:
    from grpc import aio


def call_failure(peer: str, failure: aio.AioRpcError) -> FirstError:
    """Return the error of a call that failed before its first byte.

    Errors of the peer's upstreams and of its limits come back as they were. That the peer does not
    know the model any more, or refuses this gateway, is no fault of the caller: others may answer.
    """
    if not is_told_by_peer(failure):
        return _link_failure(peer, failure)
    error = error_from_rpc(failure)
    is_ours = isinstance(error, CallerError) and not isinstance(
        error, UpstreamRejectedError | InvalidRequestError
    )
    if is_ours or isinstance(error, InternalError):
        return BackendUnavailableError(
            f"the peer {peer!r} cannot run the call: {error.message}",
            metadata={**error.metadata, "peer": peer, "peer_reason": error.reason},
        )
    if isinstance(error, StreamTruncatedError):
        return BackendUnavailableError(error.message, metadata=error.metadata)
    return error


def stream_failure(peer: str, failure: aio.AioRpcError) -> FirstError:
    """Return the error of a stream that failed after its first byte."""
    error = call_failure(peer, failure)
    if isinstance(error, BackendTimeoutError):
        return error
    return StreamTruncatedError(error.message, metadata=error.metadata, upstream=error.upstream)


def is_told_by_peer(failure: aio.AioRpcError) -> bool:
    """Tell whether the peer itself ended the RPC; else the gRPC library found no way to it."""
    pairs: Any = failure.trailing_metadata() or ()
    return any(key == DETAILS_KEY for key, _ in pairs)


def _link_failure(peer: str, failure: aio.AioRpcError) -> FirstError:
    """Return the error for a status that the gRPC library made."""
    if failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BackendTimeoutError(
            "the call took longer than allowed", metadata={"bound": "total", "peer": peer}
        )
    return BackendUnavailableError(f"the peer {peer!r} cannot be reached", metadata={"peer": peer})
