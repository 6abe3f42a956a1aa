"""The one map between `FirstError` and gRPC status."""

from __future__ import annotations

from typing import Final, Protocol

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from first_core import errors
from first_core.errors import BackendError, FirstError, UpstreamRejectedError
from first_core.types import UpstreamError
from first_proto.v1 import error_pb2

DOMAIN: Final = "first.v1"
"""`ErrorInfo.domain` of all our errors."""

DETAILS_KEY: Final = "grpc-status-details-bin"
"""Trailing metadata key of a serialised `google.rpc.Status`."""

_CLASSES: Final[dict[str, type[FirstError]]] = {
    cls.reason: cls
    for cls in (
        errors.InvalidRequestError,
        errors.UnauthenticatedError,
        errors.PermissionDeniedError,
        errors.NotFoundError,
        errors.UnsupportedError,
        errors.UpstreamRejectedError,
        errors.LimitExceededError,
        errors.EndpointColdError,
        errors.OverloadedError,
        errors.BackendTimeoutError,
        errors.BackendUnavailableError,
        errors.StreamTruncatedError,
        errors.InternalError,
    )
}

_BY_CODE: Final[dict[grpc.StatusCode, type[FirstError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: errors.UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDeniedError,
    grpc.StatusCode.NOT_FOUND: errors.NotFoundError,
    grpc.StatusCode.UNIMPLEMENTED: errors.UnsupportedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceededError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.BackendTimeoutError,
    grpc.StatusCode.UNAVAILABLE: errors.BackendUnavailableError,
    grpc.StatusCode.DATA_LOSS: errors.StreamTruncatedError,
}
"""For statuses that carry no details: made by the gRPC library or a proxy, not by a router."""

_TEXTS: Final[dict[grpc.StatusCode, str]] = {
    grpc.StatusCode.UNAVAILABLE: "the router cannot be reached",
    grpc.StatusCode.DEADLINE_EXCEEDED: "the call took longer than its deadline allows",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "the message is larger than the router takes",
}

_UPSTREAM_CODES: Final[dict[int, grpc.StatusCode]] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""HTTP to gRPC as `google/rpc/code.proto` pairs them; every other 4xx is INVALID_ARGUMENT."""


class RpcFailure(Protocol):
    """What `error_from_rpc` needs of a `grpc.aio.AioRpcError`."""

    def code(self) -> grpc.StatusCode:
        """Return the status code."""

    def details(self) -> str | None:
        """Return the message."""

    def trailing_metadata(self) -> object:
        """Return the trailing metadata."""


def code_of(error: FirstError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    if isinstance(error, UpstreamRejectedError):
        return _UPSTREAM_CODES.get(error.upstream.status, error.code)
    return error.code


def details_of(error: FirstError) -> bytes:
    """Return the serialised `google.rpc.Status`: ErrorInfo, then RetryInfo and UpstreamError."""
    status = status_pb2.Status(code=code_pb2.Code.Value(code_of(error).name), message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.retry_after_s is not None:
        delay = Duration()
        delay.FromMilliseconds(max(0, round(error.retry_after_s * 1000)))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.upstream is not None:
        said = error_pb2.UpstreamError(
            http_status=error.upstream.status,
            content_type=error.upstream.content_type,
            body=error.upstream.body,
        )
        status.details.add().Pack(said)
    serialized: bytes = status.SerializeToString()
    return serialized


def error_from_rpc(failure: RpcFailure) -> FirstError:
    """Return the error that a failed RPC tells."""
    for key, value in failure.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == DETAILS_KEY:
            error = _from_details(value)
            if error is not None:
                return error
    # The library's own text may name the router's address, so it is not told.
    cls = _BY_CODE.get(failure.code(), errors.InternalError)
    return cls(_TEXTS.get(failure.code()) or f"the router answered {failure.code().name}")


def _from_details(serialized: bytes) -> FirstError | None:
    status = status_pb2.Status.FromString(serialized)
    info, retry, said = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.RetryInfo(),
        error_pb2.UpstreamError(),
    )
    retry_after_s = upstream = None
    for detail in status.details:
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        elif detail.Unpack(said):
            upstream = UpstreamError(said.http_status, said.content_type, said.body)
        else:
            detail.Unpack(info)
    cls = _CLASSES.get(info.reason)
    if cls is None or info.domain != DOMAIN:
        return None
    error = cls(
        status.message,
        metadata=dict(info.metadata),
        retry_after_s=retry_after_s,
        upstream=upstream,
    )
    if isinstance(error, BackendError):
        error.work_started = True  # not told on the wire; the safe reading
    return error
