"""What the simulator answers, one file per resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from first_core.testing.simulator.routes import (
    audio,
    chat,
    completions,
    messages,
    operations,
    pooling,
    responses,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.testing.simulator.calls import Handler

_INFERENCE: Final[Mapping[str, Mapping[str, Handler]]] = {
    **chat.ROUTES,
    **completions.ROUTES,
    **responses.ROUTES,
    **messages.ROUTES,
    **pooling.ROUTES,
    **audio.ROUTES,
}

ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    **_INFERENCE,
    **tokens.ROUTES,
    **operations.ROUTES,
}
"""Path to method to handler."""

INFERENCE: Final = frozenset(_INFERENCE)
"""Paths that faults without a path of their own take."""

__all__ = ["INFERENCE", "ROUTES"]
