"""HTTP answers: their headers, and errors in a dialect."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aiohttp import hdrs, web
from multidict import CIMultiDict

from first_core.errors import FirstError, InternalError
from first_gateway_http.errors import failure_of, upstream_document
from first_gateway_http.headers import REQUEST_ID

if TYPE_CHECKING:
    from first_gateway_http.dialects import Dialect
    from first_gateway_http.errors import Failure
    from first_proto.v1.inference_pb2 import CallHead

JSON: Final = "application/json"
SERVER: Final = "first-gateway"

_log = logging.getLogger(__name__)


def base_headers(content_type: str, request_id: str) -> CIMultiDict[str]:
    """Return the headers that every answer has."""
    headers: CIMultiDict[str] = CIMultiDict()
    headers[hdrs.CONTENT_TYPE] = content_type
    headers[REQUEST_ID] = request_id
    headers[hdrs.SERVER] = SERVER
    return headers


def add_head(headers: CIMultiDict[str], head: CallHead) -> None:
    """Tell who answered, and after how many attempts."""
    ref = head.endpoint
    _add_attempts(headers, f"{ref.cluster}/{ref.framework}/{ref.model}", str(head.attempt_count))


def _add_attempts(headers: CIMultiDict[str], endpoint: str, attempt_count: str) -> None:
    plain = endpoint.isascii() and endpoint.isprintable()
    headers["x-first-endpoint"] = endpoint if plain else quote(endpoint)
    headers["x-first-attempts"] = attempt_count


def json_answer(document: Any, request_id: str, *, status: int = 200) -> web.Response:
    """Return a JSON document as an answer."""
    body = json.dumps(document, ensure_ascii=False).encode()
    return web.Response(status=status, body=body, headers=base_headers(JSON, request_id))


def error_answer(error: FirstError, dialect: Dialect, request_id: str) -> web.Response:
    """Return an error as an answer, in the client's dialect.

    An upstream's error body that speaks the dialect already goes through byte for byte.
    """
    failure = failure_of(error, request_id)
    body, content_type = dialect.error_body(failure, request_id), JSON
    upstream = failure.upstream
    if upstream is not None and dialect.is_error_body(upstream_document(upstream)):
        body, content_type = upstream.body, upstream.content_type or JSON
    headers = base_headers(content_type, request_id)
    headers[dialect.request_id_header] = request_id
    _add_error_headers(headers, failure)
    if (endpoint := error.metadata.get("last_endpoint")) is not None:
        _add_attempts(headers, endpoint, error.metadata.get("attempt_count", "1"))
    return web.Response(status=failure.status, body=body, headers=headers)


def _add_error_headers(headers: CIMultiDict[str], failure: Failure) -> None:
    if failure.retry_after_s is not None:
        headers[hdrs.RETRY_AFTER] = str(failure.retry_after_s)
    if failure.allow:
        headers[hdrs.ALLOW] = failure.allow
    if failure.status == 401:  # noqa: PLR2004
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if failure.status == 408:  # noqa: PLR2004
        headers[hdrs.CONNECTION] = "close"


def bug(exc: Exception, request_id: str) -> InternalError:
    """Log an error that nobody expected, and return what the client may know of it."""
    _log.error("request_failed", extra={"request_id": request_id}, exc_info=exc)
    return InternalError("internal error", metadata={"request_id": request_id})
