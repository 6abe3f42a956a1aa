"""Finds and replaces short text fields of a multipart body; everything else stays opaque."""

from __future__ import annotations

import re
from typing import Final

from first_core.errors import InvalidRequestError

_BOUNDARY: Final = re.compile(r'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)
_NAME: Final = re.compile(rb'content-disposition:[^\r\n]*?[;\s]name="([^"]*)"', re.IGNORECASE)


class Multipart:
    """One `multipart/form-data` body (RFC 7578).

    Raises:
        InvalidRequestError: The content type names no boundary, or the body has no such part.
    """

    def __init__(self, data: bytes, content_type: str) -> None:
        found = _BOUNDARY.search(content_type)
        if not content_type.lower().startswith("multipart/form-data") or not found:
            raise InvalidRequestError(
                "the body must be multipart/form-data with a boundary",
                metadata={"field": "content-type"},
            )
        self._data = data
        self._delimiter = b"--" + (found[1] or found[2]).encode()
        self._spans = self._read()

    def text(self, field: str) -> str:
        """Return the value of a text field; empty when there is none."""
        span = self._spans.get(field)
        return self._data[slice(*span)].decode("utf-8", "replace").strip() if span else ""

    def with_text(self, field: str, value: str) -> bytes:
        """Return the body with another value in a field; a field that is missing is added."""
        encoded = value.encode()
        span = self._spans.get(field)
        if span is not None:
            return self._data[: span[0]] + encoded + self._data[span[1] :]
        head = f'\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'.encode()
        return self._delimiter + head + encoded + b"\r\n" + self._data

    def _read(self) -> dict[str, tuple[int, int]]:
        """Return where the value of each field stands; the last of several wins."""
        data, delimiter = self._data, self._delimiter
        if not data.startswith(delimiter) and b"\r\n" + delimiter not in data:
            raise InvalidRequestError(
                "the body does not hold the boundary that its content type names",
                metadata={"field": "body"},
            )
        spans = {}
        position = data.find(delimiter)
        while position >= 0:
            head = position + len(delimiter)
            end = data.find(b"\r\n" + delimiter, head)
            value = data.find(b"\r\n\r\n", head) + 4
            if end >= 0 and head < value <= end:
                name = _NAME.search(data, head, value)
                if name:
                    spans[name[1].decode("utf-8", "replace")] = (value, end)
            position = end + 2 if end >= 0 else -1
        return spans
