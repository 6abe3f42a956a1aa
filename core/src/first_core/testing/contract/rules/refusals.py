"""What an upstream refuses reaches the caller as the upstream said it."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING, Final

import pytest

from first_core.errors import (
    BackendError,
    BackendUnavailableError,
    CapacityError,
    LimitExceededError,
    OverloadedError,
    UpstreamRejectedError,
)
from first_core.testing.contract.base import ContractBase
from first_core.testing.contract.verdict import require, require_same
from first_core.testing.contract.wire import whole
from first_core.testing.simulator import ErrorStatus
from first_core.types import MAX_UPSTREAM_ERROR_BYTES

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject, Way

_REJECTION: Final = '{"error" : {"message":"bad é\\u6f22 key","type":"BadRequestError"},"x":1 }\n'
_STACK: Final = "Traceback (most recent call last): /srv/models/run.py"


class RefusalRules(ContractBase):
    """Rules about error statuses."""

    @pytest.mark.parametrize("status", [400, 404, 413, 422])
    async def test_rejection_passes_unchanged(
        self, subject: Subject, way: Way, status: int
    ) -> None:
        """A 4xx is `UpstreamRejectedError` with status, content type and body unchanged.

        Look at how `UpstreamError` is filled, and for statuses that are mapped to something else.
        """
        content_type = "application/json; charset=utf-8"
        subject.arm(ErrorStatus(status=status, body=_REJECTION.encode(), content_type=content_type))
        error = await subject.fail(way)

        require(isinstance(error, UpstreamRejectedError), f"{error!r} for status {status}")
        told = error.upstream
        require(told is not None, "`upstream` is not set")
        if told is not None:
            require(told.status == status, f"status {status} became {told.status}")
            require(told.content_type == content_type, f"content type is {told.content_type!r}")
            require_same(told.body, _REJECTION.encode(), "error body")

    async def test_large_error_body_is_left_out(self, subject: Subject, way: Way) -> None:
        """An error body above `MAX_UPSTREAM_ERROR_BYTES` is left out, its status is not.

        It would not fit into the metadata of gRPC. Look at how `UpstreamError` is filled.
        """
        body = '{"message":"' + "x" * MAX_UPSTREAM_ERROR_BYTES + '"}'
        subject.arm(ErrorStatus(status=400, body=body.encode()))
        error = await subject.fail(way)

        require(isinstance(error, UpstreamRejectedError), f"{error!r} for status 400")
        told = error.upstream
        require(told is not None and told.status == 400, "the status is lost")  # noqa: PLR2004
        require(told is not None and not told.body, "the body is passed on")

    @pytest.mark.parametrize("status", [429, 503])
    async def test_retry_after_is_told(self, subject: Subject, way: Way, status: int) -> None:
        """429 is `LimitExceededError`, 503 `OverloadedError`, each with `retry_after_s`.

        Look for a status that counts as failure: these two are none, and trip no breaker.
        """
        subject.arm(ErrorStatus(status=status, headers={"retry-after": "7"}))
        error = await subject.fail(way)

        wanted = LimitExceededError if status == 429 else OverloadedError  # noqa: PLR2004
        require(isinstance(error, wanted), f"{error!r} where {wanted.__name__} is due")
        require(error.retry_after_s == 7, f"retry_after_s is {error.retry_after_s}")  # noqa: PLR2004

    async def test_retry_after_may_be_a_date(self, subject: Subject) -> None:
        """`Retry-After` may be a date (RFC 9110, section 10.2.3); it is told in seconds from now.

        Look at the parser of the header, and whether it reads the time from the backend's clock.
        """
        date = email.utils.formatdate(subject.clock.time() + 30, usegmt=True)
        subject.arm(ErrorStatus(status=503, headers={"retry-after": date}))
        error = await subject.fail("call")

        seconds = error.retry_after_s
        require(isinstance(error, CapacityError), f"{error!r} for status 503")
        require(seconds is not None and 28 < seconds <= 30, f"retry_after_s is {seconds}")  # noqa: PLR2004

    async def test_refusal_without_retry_after_invents_none(self, subject: Subject) -> None:
        """Without `Retry-After`, or with one that is neither number nor date, nothing is told.

        Look for a default: the router has one of its own.
        """
        for headers in ({}, {"retry-after": "soon"}):
            subject.arm(ErrorStatus(status=503, headers=headers))
            error = await subject.fail("call")

            require(isinstance(error, OverloadedError), f"{error!r} for status 503")
            require(error.retry_after_s is None, f"retry_after_s is {error.retry_after_s}")

    @pytest.mark.parametrize("status", [500, 502])
    async def test_failure_is_told_without_its_body(
        self, subject: Subject, way: Way, status: int
    ) -> None:
        """A 5xx is `BackendUnavailableError`; what the server says about its insides stays here.

        Look at the message and at `upstream` of the error: callers see both.
        """
        subject.arm(ErrorStatus(status=status, body=f'{{"message":"{_STACK}"}}'.encode()))
        error = await subject.fail(way)

        require(isinstance(error, BackendUnavailableError), f"{error!r} for status {status}")
        require(_STACK not in f"{error.message}{error.metadata}{error.upstream}", "body is told")

    async def test_redirect_is_not_followed(self, subject: Subject, way: Way) -> None:
        """A redirect is an error; the call, with its credential, goes nowhere else.

        Look for a client that follows redirects by default.
        """
        elsewhere = f"{subject.upstream.url}/elsewhere"
        subject.script(whole(b"", status=307, headers={"location": elsewhere}))
        error = await subject.fail(way)

        require(isinstance(error, BackendError), f"{error!r} where a BackendError is due")
        paths = [path for _, path, _, _ in subject.upstream.received]
        require("/elsewhere" not in paths, "the redirect was followed")
