"""Reads the control fields of a body and changes only those top-level values that it must.

Every other byte of the body stays as the client sent it.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from first_core.domain.multipart import Multipart
from first_core.errors import InvalidRequestError
from first_core.types import Operation

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]')
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[4-7]")
_SPACE: Final = rb"[ \t\r\n]*"
_INCLUDE_USAGE: Final = b'"stream_options":{"include_usage":true}'


class Control(msgspec.Struct, gc=False):
    """The control fields of a JSON body; each is raw JSON, or empty when the body has none."""

    model: msgspec.Raw = msgspec.Raw(b"")
    stream_options: msgspec.Raw = msgspec.Raw(b"")
    n: msgspec.Raw = msgspec.Raw(b"")
    prompt: msgspec.Raw = msgspec.Raw(b"")


_decode_control: Final = msgspec.json.Decoder(Control).decode
_decode_any: Final = msgspec.json.Decoder().decode


class Body:
    """One body of a call.

    Args:
        operation: What is asked.
        data: The body as the client sent it.
        content_type: Its `Content-Type`.

    Raises:
        InvalidRequestError: It is not what the operation takes; `metadata["field"]` names where.
    """

    __slots__ = ("_control", "_multipart", "data", "operation")

    def __init__(self, operation: Operation, data: bytes, content_type: str) -> None:
        if not data:
            raise _invalid("the body is empty", "body")
        self.operation = operation
        self.data = data
        self._multipart: Multipart | None = None
        if operation is Operation.TRANSCRIPTION:
            self._multipart = Multipart(data, content_type)
            self._control = Control()
        else:
            self._control = _read_control(data)

    @property
    def model(self) -> str:
        """The body's own model; empty when it names none.

        Raises:
            InvalidRequestError: It is not a string.
        """
        if self._multipart is not None:
            return self._multipart.text("model")
        raw = bytes(self._control.model)
        if not raw or raw == b"null":
            return ""
        value = _decode_any(raw)
        if not isinstance(value, str):
            raise _invalid("`model` must be a string", "model")
        return value

    @property
    def asks_usage(self) -> bool:
        """Whether the client itself wants usage in the stream."""
        return bool(_options(self._control.stream_options).get("include_usage"))

    @property
    def choice_count(self) -> int:
        """How many choices the answer has: 1 or more."""
        count = _count(self._control.n)
        if self.operation is Operation.COMPLETION and bytes(self._control.prompt)[:1] == b"[":
            count *= _prompt_count(_decode_any(self._control.prompt))
        return count

    def with_model(self, model: str) -> bytes:
        """Return the body with this model in it, every other byte unchanged."""
        if self._multipart is not None:
            return self._multipart.with_text("model", model)
        value = msgspec.json.encode(model)
        raw = bytes(self._control.model)
        if raw == value:
            return self.data
        if not raw:
            return _insert(self.data, b'"model":' + value)
        return _replace(self.data, "model", raw, value)

    def with_usage(self, data: bytes) -> bytes:
        """Return `data`, a form of this body, with `stream_options.include_usage` set."""
        raw = bytes(self._control.stream_options)
        if not raw:
            return _insert(data, _INCLUDE_USAGE)
        if raw[:1] not in {b"{", b"n"}:  # neither options nor null: the upstream refuses it
            return data
        options = {**_options(self._control.stream_options), "include_usage": True}
        return _replace(data, "stream_options", raw, msgspec.json.encode(options))


def _read_control(data: bytes) -> Control:
    try:
        data.decode()  # msgspec checks UTF-8 only in what it decodes
        return _decode_control(data)
    except UnicodeDecodeError as exc:
        raise _invalid(f"the body is not UTF-8 text (byte {exc.start})", "body") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply", "body") from None
    except msgspec.ValidationError:
        raise _invalid("the body must be a JSON object", "body") from None
    except msgspec.DecodeError as exc:
        raise _invalid(f"the body is not valid JSON: {exc}", "body") from None


def _invalid(message: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(message, metadata={"field": field})


def _options(raw: msgspec.Raw) -> dict[str, Any]:
    value = _decode_any(raw) if bytes(raw) else None
    return value if isinstance(value, dict) else {}


def _count(raw: msgspec.Raw) -> int:
    """Read `n` as the upstream does: its own reader takes `"2"` and `2.0` for 2."""
    try:
        count = int(float(_decode_any(raw))) if bytes(raw) else 1
    except (ValueError, TypeError, OverflowError):
        return 1
    return max(1, count)


def _prompt_count(prompt: Any) -> int:
    """A list of strings or of token lists has one prompt each; a token list is one prompt."""
    return len(prompt) if prompt and not isinstance(prompt[0], int) else 1


def _insert(data: bytes, member: bytes) -> bytes:
    """Put a member before the first one of the top-level object."""
    start = data.index(b"{") + 1
    separator = b"" if data[start:].lstrip(b" \t\r\n").startswith(b"}") else b","
    return data[:start] + member + separator + data[start:]


def _replace(data: bytes, key: str, old: bytes, new: bytes) -> bytes:
    """Replace the value of a top-level key.

    The raw value is known from decoding. When `"key": value` stands once in the body, that is the
    place, since a quote inside a string is escaped; otherwise, or where the key itself may be
    written with escapes, the tokens are walked.
    """
    pattern = b'"' + key.encode() + b'"' + _SPACE + b":" + _SPACE + b"(" + re.escape(old) + b")"
    found = list(re.finditer(pattern, data))
    is_plain = len(found) == 1 and not _ESCAPED_LETTER.search(data)
    spans = [found[0].span(1)] if is_plain else _top_level_spans(data, key)
    for start, end in reversed(spans):
        data = data[:start] + new + data[end:]
    return data


def _top_level_spans(data: bytes, key: str) -> list[tuple[int, int]]:
    """Return start and end of each value that the top-level object has under `key`."""
    spans = []
    depth = 0
    expects_key, name, start = False, "", -1
    for match in _TOKEN.finditer(data):
        token, position = match.group(), match.start()
        if token in b"{[":
            depth += 1
            expects_key = depth == 1
        elif depth == 1 and token in (b",", b"}"):
            if name == key:
                spans.append(_trim(data, start, position))
            name, expects_key = "", True
            depth -= token == b"}"
        elif token in b"}]":
            depth -= 1
        elif depth == 1 and expects_key and token != b":":
            name = msgspec.json.decode(token, type=str)
        elif depth == 1 and expects_key:
            expects_key, start = False, match.end()
    return spans


def _trim(data: bytes, start: int, end: int) -> tuple[int, int]:
    value = data[start:end]
    start += len(value) - len(value.lstrip(b" \t\r\n"))
    return start, start + len(value.strip(b" \t\r\n"))
