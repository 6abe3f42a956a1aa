"""The link: many calls, in both directions, over one long-lived gRPC stream."""

from __future__ import annotations

from first_core.link.channel import LinkChannel, PeerChannel
from first_core.link.connection import Link, LinkStatistics
from first_core.link.options import MAX_BATCH_BYTES, LinkOptions
from first_core.link.server import LinkServer
from first_core.link.servicers import Servicers
from first_core.link.status import NOT_STARTED_KEY, LinkError, surely_not_started

__all__ = [
    "MAX_BATCH_BYTES",
    "NOT_STARTED_KEY",
    "Link",
    "LinkChannel",
    "LinkError",
    "LinkOptions",
    "LinkServer",
    "LinkStatistics",
    "PeerChannel",
    "Servicers",
    "surely_not_started",
]
