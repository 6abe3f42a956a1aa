"""Errors cross the wire and come back as they were."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from first_core import errors
from first_core.errors import BackendError, FirstError
from first_core.types import UpstreamError
from first_core.wire.status import DETAILS_KEY, code_of, details_of, error_from_rpc

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, FirstError) and "reason" in vars(cls)
]


def failure(code: grpc.StatusCode, message: str, *trailing: tuple[str, Any]) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(*trailing), details=message)


def crossed(error: FirstError) -> FirstError:
    return error_from_rpc(failure(code_of(error), error.message, (DETAILS_KEY, details_of(error))))


@pytest.mark.parametrize("cls", [c for c in CLASSES if c is not FirstError])
def test_error_comes_back_whole(cls: type[FirstError]) -> None:
    """Class, message, metadata, wait and the upstream's words survive."""
    said = UpstreamError(418, "text/plain", b"\xff")
    error = cls("why", metadata={"k": "v"}, retry_after_s=1.25, upstream=said)

    back = crossed(error)
    assert type(back) is cls
    assert (back.message, back.metadata, back.retry_after_s, back.upstream) == (
        "why",
        {"k": "v"},
        1.25,
        said,
    )


def test_details_are_googles() -> None:
    """A client of any language finds ErrorInfo and RetryInfo."""
    error = errors.LimitExceededError("why", metadata={"k": "v"}, retry_after_s=2)
    status = status_pb2.Status.FromString(details_of(error))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()

    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (
        "LIMIT_EXCEEDED",
        "first.v1",
        {"k": "v"},
    )
    assert status.details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 2


@pytest.mark.parametrize(
    ("http_status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (404, grpc.StatusCode.NOT_FOUND),
        (422, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_rejection_has_the_code_of_its_status(http_status: int, code: grpc.StatusCode) -> None:
    """The upstream's HTTP status decides the gRPC code."""
    said = UpstreamError(http_status, "application/json", b"{}")

    assert code_of(errors.UpstreamRejectedError("no", upstream=said)) is code


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.BackendUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.BackendTimeoutError),
        (grpc.StatusCode.UNKNOWN, errors.InternalError),
    ],
)
def test_status_without_details_is_read_by_its_code(
    code: grpc.StatusCode, cls: type[FirstError]
) -> None:
    """What the gRPC library itself says becomes an error of ours."""
    assert type(error_from_rpc(failure(code, "x"))) is cls


def test_details_of_others_are_not_ours() -> None:
    """A status of another domain is read by its code."""
    info = error_details_pb2.ErrorInfo(reason="NOT_FOUND", domain="example.org")
    status = status_pb2.Status()
    status.details.add().Pack(info)
    trailing = (DETAILS_KEY, status.SerializeToString())

    back = error_from_rpc(failure(grpc.StatusCode.UNAVAILABLE, "x", trailing))
    assert type(back) is errors.BackendUnavailableError


def test_unknown_started_work_is_read_as_started() -> None:
    """The wire does not tell whether work began, so it is taken for begun."""
    back = crossed(errors.BackendUnavailableError("x", work_started=False))

    assert isinstance(back, BackendError)
    assert back.work_started
