"""Headers of a request to an upstream."""

from __future__ import annotations

import functools
import importlib.metadata
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
    headers = {name: value for name, value in forwarded.items() if name not in _OURS}
    headers.update(own)
    if content_type:
        headers["content-type"] = content_type
    headers["user-agent"] = user_agent()
    headers["accept"] = "*/*"
    headers["accept-encoding"] = "identity"
    _check(headers)
    return headers


def _check(headers: Mapping[str, str]) -> None:
    text = "".join(headers.values())  # joined: one look instead of one for each
    if "\r" in text or "\n" in text or "\0" in text:
        raise InvalidRequestError("a header holds a line break or a NUL")
