"""Control fields of a multipart body: a transcription. The bytes go on as they came."""

from __future__ import annotations

import re
from typing import Final

from first_gateway_http.control import Control, check_model
from first_gateway_http.errors import invalid

MAX_PARTS: Final = 256
"""Most parts of a body. A transcription has about ten."""

_BOUNDARY: Final = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_NAME: Final = re.compile(
    rb'content-disposition:[^\r\n]*?;[ \t]*name=(?:"([^"\r\n]*)"|([^\s;"]+))', re.IGNORECASE
)
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False, "": None}


def read_multipart_control(body: bytes, content_type: str) -> Control:
    """Read `model` and `stream` of a `multipart/form-data` body (RFC 7578).

    Raises:
        InvalidRequestError: The body does not have the form, or a control field is wrong;
            `metadata["field"]` names it.
    """
    fields = _fields(body, content_type)
    model, stream = fields.get("model"), fields.get("stream", "").lower()
    if model is None:
        raise invalid("`model` is missing", "model")
    check_model(model)
    if stream not in _FLAGS:
        raise invalid("`stream` must be true or false", "stream")
    return Control(model=model, stream=_FLAGS[stream])


def _fields(body: bytes, content_type: str) -> dict[str, str]:
    """Return the text of `model` and `stream`, as far as they are there; the last one wins."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise invalid("the content type names no boundary", "content-type")
    delimiter = b"\r\n--" + (found[1] or found[2]).encode("latin-1", "replace")
    fields: dict[str, str] = {}
    start = _first_part(body, delimiter)
    for _ in range(MAX_PARTS):
        if body.startswith(b"--", start):
            return fields
        end = body.find(delimiter, start)
        if end < 0:
            break
        _read_part(body, start, end, fields)
        start = end + len(delimiter)
    raise invalid("the multipart body is cut short or has too many parts", "body")


def _first_part(body: bytes, delimiter: bytes) -> int:
    """Return where the first part begins, just behind its delimiter."""
    if body.startswith(delimiter[2:]):
        return len(delimiter) - 2
    start = body.find(delimiter)
    if start < 0:
        raise invalid("the body does not hold the boundary of its content type", "body")
    return start + len(delimiter)


def _read_part(body: bytes, start: int, end: int, fields: dict[str, str]) -> None:
    value = body.find(b"\r\n\r\n", start, end)
    if value < 0:
        return
    name = _NAME.search(body, start, value)
    key = (name[1] or name[2]) if name else b""
    if key in {b"model", b"stream"}:
        fields[key.decode()] = body[value + 4 : end].decode("utf-8", "replace").strip()
