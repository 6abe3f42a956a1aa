"""Receives the body of a request, within bounds of size and time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from first_core.errors import InvalidRequestError
from first_gateway_http.errors import RefusedError, invalid

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_gateway_http.settings import HttpSettings


def too_large(limit: int) -> RefusedError:
    """Return the error of a body that is larger than `limit` bytes."""
    return RefusedError(
        f"the body is larger than {limit} bytes",
        status=413,
        code="request_too_large",
        metadata={"field": "body", "max_body_bytes": str(limit)},
    )


async def read_body(request: web.Request, settings: HttpSettings, clock: Clock) -> bytes:
    """Return the whole body.

    Raises:
        RefusedError: It is too large (413; by `Content-Length` before anything is read), or does
            not come in time (408).
        InvalidRequestError: Its framing or its compression is broken.
    """
    limit = settings.max_body_bytes
    length = request.content_length
    if length is not None and length > limit:
        raise too_large(limit)
    content = request.content
    try:
        if content.is_eof():
            body = content.read_nowait()
        else:
            body = await _receive(request, settings.body_timeout_s, clock)
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limit) from None
    except (web.RequestPayloadError, ValueError) as exc:
        raise InvalidRequestError(
            "the body is framed or compressed wrongly", metadata={"field": "body"}
        ) from exc
    if len(body) > limit:
        raise too_large(limit)
    return body


async def _receive(request: web.Request, timeout_s: float, clock: Clock) -> bytes:
    # Ending the stream from a timer costs a fifth of `asyncio.timeout`, and keeps to our clock.
    timer = clock.call_later(timeout_s, lambda: request.content.set_exception(TimeoutError()))
    try:
        return await request.read()
    except TimeoutError:
        raise RefusedError(
            f"the body did not come within {timeout_s:g} s",
            status=408,
            code="request_timeout",
            metadata={"field": "body", "timeout_s": f"{timeout_s:g}"},
        ) from None
    finally:
        timer.cancel()


def check_json_type(content_type: str | None) -> None:
    """Refuse a body that does not call itself JSON; none said is taken for JSON.

    Raises:
        RefusedError: It is something else (415).
    """
    if content_type is None or content_type == "application/json":
        return
    media_type, _, parameters = content_type.lower().partition(";")
    media_type = media_type.strip()
    charset = parameters.partition("charset=")[2].partition(";")[0].strip(' "')
    is_json = media_type == "application/json" or media_type.endswith("+json")
    if not is_json or charset not in {"", "utf-8", "utf8", "us-ascii"}:
        raise _wrong_type(content_type, "application/json in UTF-8")


def check_multipart_type(content_type: str | None) -> str:
    """Return the content type of a form.

    Raises:
        RefusedError: It is something else (415).
        InvalidRequestError: It is missing.
    """
    if content_type is None:
        raise invalid("the content type is missing", "content-type")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        raise _wrong_type(content_type, "multipart/form-data")
    return content_type


def _wrong_type(found: str, wanted: str) -> RefusedError:
    return RefusedError(
        f"the content type must be {wanted}",
        status=415,
        code="unsupported_media_type",
        metadata={"field": "content-type", "content_type": found},
    )


async def answer_expectation(request: web.Request) -> None:
    """Ask a client that waits for it to send its body (RFC 9110, 10.1.1).

    Nothing is sent where the body is too large, so that the refusal comes before the body.
    """
    length = request.content_length
    if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue" or (
        length is not None and length > request.client_max_size
    ):
        return
    transport = request.transport
    if transport is not None and not transport.is_closing():
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
