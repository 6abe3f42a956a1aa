"""What a link allows and how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""Largest message on the stream, whatever the largest message of a call. Below gRPC's own default
of 4 MiB, so that servers and channels need no options for links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """Bounds of one side of a link. The other side learns the limits when the link opens."""

    max_message_bytes: int = 32 * 1024 * 1024
    """Largest message of a call that is taken."""
    max_call_count: int = 4096
    """Most calls in flight that are served on one link."""
    max_metadata_bytes: int = 64 * 1024
    """Largest metadata of one frame that is taken, keys and values."""
    initial_credit_bytes: int = 256 * 1024
    """What a streamed answer may be ahead of its reader."""
    ping_after_s: float = 10.0
    """Silence of the other side after which it is asked for a sign of life."""
    ping_timeout_s: float = 5.0
    """Longest wait for that sign: a dead peer is known after the sum of both."""
    hello_timeout_s: float = 5.0
    """Longest wait from dialling until the link is open."""
    reconnect_wait_s: float = 2.0
    """Longest wait of a call, its deadline aside, for a link that is being dialled."""
    first_backoff_s: float = 0.1
    """Pause after the first attempt that failed; it doubles with each further one."""
    max_backoff_s: float = 1.0
    """Longest pause between two attempts. Pauses are shortened by up to a fifth, at random."""
    max_batch_bytes: int = 1024 * 1024
    """What is sent as one message at most, metadata aside. At most half of `MAX_BATCH_BYTES`."""
    max_unsent_bytes: int = 4 * 1024 * 1024
    """What may wait to be sent before streamed answers are held back, whatever their credit."""
