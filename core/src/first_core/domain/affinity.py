"""What makes two calls gain from the same endpoint: a session, or the beginning of the prompt."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from first_core.domain.calls import IncomingCall

PREFIX_BYTES: Final = 2048
"""How much of a prompt is compared. An engine's cache holds prefixes in blocks of 16 tokens; system
prompts, which calls share, fill some hundred of them."""


def affinity_key(incoming: IncomingCall) -> bytes:
    """Return the session key, else a digest of the body from its prompt on.

    The body is not parsed: the first `"messages"`, `"prompt"` or `"input"` is where the prompt
    begins, wherever other keys stand. A wrong guess costs a cache hit and nothing else.
    """
    if incoming.session_key:
        return incoming.session_key.encode()
    body = incoming.body
    starts = [body.find(key) for key in (b'"messages"', b'"prompt"', b'"input"')]
    start = min((start for start in starts if start >= 0), default=-1)
    if start < 0:
        return b""
    return blake2b(body[start : start + PREFIX_BYTES], digest_size=16).digest()
