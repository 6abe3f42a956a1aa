"""The error tree.

```text
FirstError
├── CallerError                the caller must change something; never retried, trips no breaker
│   ├── InvalidRequestError      INVALID_ARGUMENT     400
│   ├── UnauthenticatedError     UNAUTHENTICATED      401
│   ├── PermissionDeniedError    PERMISSION_DENIED    403
│   ├── NotFoundError            NOT_FOUND            404
│   ├── UnsupportedError         UNIMPLEMENTED        501
│   └── UpstreamRejectedError    by status            the upstream's own
├── CapacityError              correct call, no room now; carries retry_after_s
│   ├── LimitExceededError       RESOURCE_EXHAUSTED   429
│   ├── EndpointColdError        UNAVAILABLE          503
│   └── OverloadedError          UNAVAILABLE          503
├── BackendError               the upstream failed; only these count against an endpoint's health
│   ├── BackendTimeoutError      DEADLINE_EXCEEDED    504
│   ├── BackendUnavailableError  UNAVAILABLE          503
│   └── StreamTruncatedError     DATA_LOSS            500
└── InternalError              INTERNAL             500
StartupError (apart: never on the wire)   SettingsError · PluginLoadError · PluginConflictError
```
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, ClassVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.types import UpstreamError


class Retry(enum.Enum):
    """Who may try the same call again, and when."""

    NEVER = "never"
    AFTER_DELAY = "after_delay"
    BEFORE_FIRST_CHUNK = "before_first_chunk"


class FirstError(Exception):
    """Root of all errors that may leave the router.

    The message goes to the caller: short, says what to do, without secret, path, host or stack.
    The cause stays in the log (`raise … from exc`).

    Args:
        message: For the caller.
        metadata: Every changing value of the message, by name.
        retry_after_s: When the same call may be tried again, in seconds from now.
        upstream: What the upstream said, where it said anything.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"
    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        upstream: UpstreamError | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_s = retry_after_s
        self.upstream = upstream


class CallerError(FirstError):
    """The caller must change something."""


class InvalidRequestError(CallerError):
    """The request itself is wrong."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"


class UnauthenticatedError(CallerError):
    """No credential, or one that is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(CallerError):
    """The principal is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFoundError(CallerError):
    """No such model, endpoint or resource."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class UnsupportedError(CallerError):
    """The model exists but cannot do this operation."""

    code = grpc.StatusCode.UNIMPLEMENTED
    reason = "UNSUPPORTED"


class UpstreamRejectedError(CallerError):
    """The upstream refused this very request with a 4xx; `upstream` is always set.

    Nothing was started. The status is the upstream's own, so `code` depends on it: see
    `first_core.wire.status`.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "UPSTREAM_REJECTED"
    upstream: UpstreamError


class CapacityError(FirstError):
    """A correct call that finds no room now."""

    retry = Retry.AFTER_DELAY


class LimitExceededError(CapacityError):
    """A limit is used up, here or at the upstream."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "LIMIT_EXCEEDED"


class EndpointColdError(CapacityError):
    """The model is known, but nothing serves it now; nothing was started."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "ENDPOINT_COLD"


class OverloadedError(CapacityError):
    """Everything that serves the model is full; nothing was started."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "OVERLOADED"


class BackendError(FirstError):
    """The upstream failed.

    Args:
        message: For the caller.
        work_started: Whether the upstream may have begun to work on the call. Never false
            unless that is certain.
        metadata: As in `FirstError`.
        retry_after_s: As in `FirstError`.
        upstream: As in `FirstError`.
    """

    retry = Retry.BEFORE_FIRST_CHUNK

    def __init__(
        self,
        message: str,
        *,
        work_started: bool = True,
        metadata: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        upstream: UpstreamError | None = None,
    ) -> None:
        super().__init__(message, metadata=metadata, retry_after_s=retry_after_s, upstream=upstream)
        self.work_started = work_started


class BackendTimeoutError(BackendError):
    """The upstream took too long; `metadata["bound"]` names the bound."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "BACKEND_TIMEOUT"


class BackendUnavailableError(BackendError):
    """The upstream cannot be reached, failed, or sent what is no answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "BACKEND_UNAVAILABLE"


class StreamTruncatedError(BackendError):
    """The answer broke off after its first chunk: an error event, and no end marker."""

    code = grpc.StatusCode.DATA_LOSS
    reason = "STREAM_TRUNCATED"
    retry = Retry.NEVER


class InternalError(FirstError):
    """A bug; the caller sees only the request id."""


class StartupError(Exception):
    """The process cannot start. Never on the wire; the message is for the operator."""


class SettingsError(StartupError):
    """The settings are wrong; each line names key, place and what is allowed."""


class PluginLoadError(StartupError):
    """A plugin cannot be loaded."""


class PluginConflictError(StartupError):
    """Two plugins offer the same thing."""
