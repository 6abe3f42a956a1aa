"""Headers of a request to an upstream."""

from __future__ import annotations

import functools
import importlib.metadata
import re
from typing import TYPE_CHECKING, Final

from first_core.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_OURS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers that frame the message or name its sender: never taken from a call, whatever the
allow-list says. The hop-by-hop ones are those of RFC 9110, section 7.6.1."""


_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
"""Source: RFC 9110, section 5.6.2."""


def check_header_name(text: str) -> str:
    """Return `text` in lower case, the name of a header that a backend may add.

    Raises:
        ValueError: It is no name of a header, or that of one that frames the message.
    """
    name = text.lower()
    if not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is no name of a header")
    if name in _OURS - {"cookie", "user-agent"}:
        raise ValueError(f"{text!r} frames the message and cannot be set")
    return name


def check_header_value(text: str) -> str:
    """Return `text`, which may stand as the value of a header.

    Raises:
        ValueError: It holds characters that no header may. The message does not quote it.
    """
    if not text.isascii() or not text.isprintable():
        raise ValueError("must be printable ASCII to stand in a header")
    return text


@functools.cache
def user_agent() -> str:
    """Return the name by which upstreams know us."""
    return f"first-gateway/{importlib.metadata.version('first-core')}"


def merge(
    *, forwarded: Mapping[str, str], own: Mapping[str, str], content_type: str = ""
) -> dict[str, str]:
    """Return the headers to send.

    Args:
        forwarded: Those that the call names, lower case.
        own: The backend's, lower case; they win.
        content_type: Of the body; empty: there is none.

    Raises:
        InvalidRequestError: A value would end its header's line, and so forge another one.
    """
    headers = {"user-agent": user_agent(), "accept": "*/*"}
    headers.update({name: text for name, text in forwarded.items() if name not in _OURS})
    headers.update(own)
    headers["accept-encoding"] = "identity"  # bodies pass unread, so nobody would decode them
    if content_type:
        headers["content-type"] = content_type
    _check(headers)
    return headers


def _check(headers: Mapping[str, str]) -> None:
    text = "".join(headers.values())  # joined: one look instead of one for each
    if "\r" in text or "\n" in text or "\0" in text:
        raise InvalidRequestError("a header holds a line break or a NUL")
