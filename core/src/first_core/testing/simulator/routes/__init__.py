"""What the simulator answers, one file per resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.testing.simulator.routes import chat, operations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler

ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    **chat.ROUTES,
    **operations.ROUTES,
}
"""Path to method to handler."""

INFERENCE: Final = frozenset({*chat.ROUTES})
"""Paths that faults without a path of their own take."""

__all__ = ["INFERENCE", "ROUTES"]
