"""Masks what must not stand in a log: the last line of defence, not the first.

Nobody logs credentials, prompts or answers on purpose. What slips through, in a library's message
or an exception's text, is masked here as far as its shape tells.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MASK: Final = "***"

MAX_TEXT_CHARS: Final = 16 * 1024
"""Longest text in a line; the rest is cut. A traceback of 100 frames fits."""

MAX_ITEMS: Final = 100
"""Most items of a list or mapping in a line; the rest is cut."""

MAX_DEPTH: Final = 4
"""Deepest nesting of a value in a line; what lies below becomes text."""

_NAMES: Final = (
    r"authorization|api[_-]?key|(?:access|refresh|auth|bearer|id)[_-]?token|secret|passw(?:or)?d"
    r"|credential|cookie|private[_-]?key"
)
_SECRET_KEY: Final = re.compile(rf"{_NAMES}|^token$", re.IGNORECASE)
_CONTENT_KEYS: Final = frozenset(
    {"answer", "body", "completion", "content", "input", "messages", "output", "prompt", "text"}
)
_SECRETS_IN_TEXT: Final = (
    (re.compile(r"\b(Bearer|Basic)\s+[^\s\"',;]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\bsk-[\w-]{4,}"), f"sk-{MASK}"),
    (
        re.compile(
            rf"((?:{_NAMES})[\"']?\s*[:=]\s*[\"']?)(?!Bearer|Basic)[^\s\"',;&]+", re.IGNORECASE
        ),
        rf"\g<1>{MASK}",
    ),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), rf"\g<1>{MASK}@"),
)


def redact_text(text: str) -> str:
    """Return `text` without what looks like a credential, cut to `MAX_TEXT_CHARS`."""
    if len(text) > MAX_TEXT_CHARS:
        text = f"{text[:MAX_TEXT_CHARS]}…"
    for pattern, mask in _SECRETS_IN_TEXT:
        text = pattern.sub(mask, text)
    return text


def redact_field(key: str, value: object) -> Any:
    """Return the value of one field as plain data, masked if its key names a secret or content.

    Numbers pass, since counts of tokens are named like tokens.
    """
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if key.lower() in _CONTENT_KEYS or _SECRET_KEY.search(key):
        return MASK
    return _plain(value, MAX_DEPTH)


def _plain(value: object, depth: int) -> Any:
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    if depth > 0 and isinstance(value, Mapping):
        return _plain_mapping(value, depth)
    if depth > 0 and isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth - 1) for item, _ in zip(value, range(MAX_ITEMS), strict=False)]
    return redact_text(value if isinstance(value, str) else str(value))


def _plain_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain = {}
    for (key, item), _ in zip(value.items(), range(MAX_ITEMS), strict=False):
        masked = redact_field(str(key), item)
        plain[str(key)] = MASK if masked == MASK else _plain(item, depth - 1)
    return plain
