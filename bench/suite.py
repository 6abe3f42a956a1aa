"""The measures that have systems of their own, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.failover import FAILOVER
from bench.micro import MICRO
from bench.saturation import SATURATION
from bench.scale import SCALE

if TYPE_CHECKING:
    from bench.scenarios import Scenario

SCENARIOS: Final[dict[str, Scenario]] = {
    "scale": SCALE,
    "saturation": SATURATION,
    "failover": FAILOVER,
    "micro": MICRO,
}
