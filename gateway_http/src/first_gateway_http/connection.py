"""One connection: aiohttp's, except that requests which cannot be parsed get JSON too."""

from __future__ import annotations

import logging
import os

from aiohttp import web

from first_gateway_http.answers import error_answer
from first_gateway_http.dialects import OPENAI
from first_gateway_http.errors import RefusedError

_log = logging.getLogger(__name__)


class Connection(web.RequestHandler):
    """Speaks HTTP/1.1 on one connection."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or more of it than the limits allow, and close."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun; nothing else can be sent")
        request_id = os.urandom(16).hex()
        _log.debug("bad_request", extra={"request_id": request_id}, exc_info=exc)
        reason = (message or "").partition("\n")[0].strip().rstrip(":.") or "it cannot be read"
        error = RefusedError(
            f"this is no proper HTTP request: {reason}", status=status, code="bad_request"
        )
        answer = error_answer(error, OPENAI, request_id)
        answer.force_close()
        return answer
