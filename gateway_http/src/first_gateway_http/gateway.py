"""What the handlers of all routes work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from first_core.client import RouterClient
    from first_core.clock import Clock
    from first_core.plugin import ActiveCalls
    from first_core.telemetry import Telemetry
    from first_gateway_http.settings import HttpSettings


@dataclass(eq=False, slots=True)
class Gateway:
    """One front."""

    client: RouterClient
    """Calls the router."""
    settings: HttpSettings
    """The section `http`; a reload replaces it."""
    telemetry: Telemetry
    """Traces and metrics."""
    clock: Clock
    """The time."""
    calls: ActiveCalls
    """The calls in flight."""


GATEWAY: Final = web.AppKey("gateway", Gateway)
