"""What makes tests of backends and gateways easy: contract kit, simulated server, fake clock.

The kit is loaded when asked for, since it needs pytest (extra `first-core[testing]`), and the
simulator, which the demo runs, does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from first_core.testing.contract import BackendContract

__all__ = ["BackendContract"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from first_core.testing.contract import BackendContract  # noqa: PLC0415 - needs pytest

    return BackendContract
