"""What a `FirstError` is in HTTP: a status, and the facts that a dialect's error body tells."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from first_core import errors
from first_core.errors import FirstError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.types import UpstreamError

HTTP_STATUS: Final[dict[type[FirstError], int]] = {
    errors.InvalidRequestError: 400,
    errors.UnauthenticatedError: 401,
    errors.PermissionDeniedError: 403,
    errors.NotFoundError: 404,
    errors.UnsupportedError: 501,
    errors.UpstreamRejectedError: 400,
    errors.LimitExceededError: 429,
    errors.EndpointColdError: 503,
    errors.OverloadedError: 503,
    errors.BackendTimeoutError: 504,
    errors.BackendUnavailableError: 503,
    errors.StreamTruncatedError: 500,
    errors.InternalError: 500,
}
"""Statuses where the upstream itself said none."""

_MESSAGE_KEYS: Final = ("error", "message", "detail", "msg")

MAX_MESSAGE_CHARS: Final = 2000
"""Longest message that is made of an upstream's error body; the rest is cut."""


class RefusedError(InvalidRequestError):
    """The HTTP request cannot become a call; the router never sees it.

    Args:
        message: For the caller.
        status: HTTP status, 400 to 499.
        code: Machine-readable reason, lower case.
        metadata: As in `FirstError`.
        allow: Methods that the path has, for status 405.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        metadata: Mapping[str, str] | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(message, metadata=metadata)
        self.status = status
        self.code_name = code
        self.allow = allow


def invalid(message: str, field: str) -> InvalidRequestError:
    """Return the error of a request whose `field` is wrong."""
    return InvalidRequestError(message, metadata={"field": field})


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told about an error."""

    status: int
    """HTTP status, 400 to 599."""
    code: str
    """Machine-readable reason, lower case."""
    message: str
    """For a person."""
    param: str | None
    """The field of the request that is wrong, if one is."""
    retry_after_s: int | None
    """Whole seconds until a further try makes sense."""
    allow: str
    """Methods that the path has; empty: not the question."""
    upstream: UpstreamError | None
    """What the upstream said, if it said anything."""


def failure_of(error: FirstError, request_id: str) -> Failure:
    """Return what a client is told about `error`."""
    upstream = error.upstream
    retry_after_s = error.retry_after_s
    return Failure(
        status=_status(error),
        code=_code(error),
        message=_message(error, request_id),
        param=_param(error),
        retry_after_s=None if retry_after_s is None else max(0, math.ceil(retry_after_s)),
        allow=error.allow if isinstance(error, RefusedError) else "",
        upstream=upstream,
    )


def _status(error: FirstError) -> int:
    if isinstance(error, RefusedError):
        return error.status
    if error.upstream is not None and 400 <= error.upstream.status <= 599:  # noqa: PLR2004
        return error.upstream.status
    return HTTP_STATUS.get(type(error), 500)


def _code(error: FirstError) -> str:
    if isinstance(error, RefusedError):
        return error.code_name
    if isinstance(error, errors.NotFoundError) and "model" in error.metadata:
        return "model_not_found"
    return error.reason.lower()


def _param(error: FirstError) -> str | None:
    if isinstance(error, errors.CallerError) and "model" in error.metadata:
        return error.metadata.get("field", "model")
    return error.metadata.get("field")


def _message(error: FirstError, request_id: str) -> str:
    if isinstance(error, errors.InternalError):
        return f"internal error; give the operator this request id: {request_id}"
    if error.upstream is not None:
        return upstream_message(error.upstream) or error.message
    return error.message


def upstream_document(upstream: UpstreamError) -> Any:
    """Return an upstream's error body as data; `None` where it is no JSON."""
    try:
        return json.loads(upstream.body)
    except (ValueError, RecursionError):
        return None


def upstream_message(upstream: UpstreamError) -> str:
    """Return the sentence in an upstream's error body; empty where there is none."""
    document = upstream_document(upstream)
    if document is None and "html" not in upstream.content_type:
        text = upstream.body.decode("utf-8", "replace").strip()
    else:
        text = _find_message(document)
    return text[:MAX_MESSAGE_CHARS]


def _find_message(document: Any, depth: int = 4) -> str:
    """Look where servers put it: OpenAI, Anthropic, FastAPI, plain `{"error": "…"}`, a string."""
    if isinstance(document, str):
        return document
    if isinstance(document, list) and document and depth:
        return _find_message(document[0], depth - 1)
    if isinstance(document, dict) and depth:
        texts = (_find_message(document.get(key), depth - 1) for key in _MESSAGE_KEYS)
        return next(filter(None, texts), "")
    return ""
