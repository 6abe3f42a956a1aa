"""A simulated inference server that follows vLLM's documented behaviour on a real socket.

Made for tests, the demo and the bench. No model runs: text is made up from a seed.
"""

from __future__ import annotations

from first_core.testing.simulator.faults import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    DoneWithoutFinish,
    ErrorInside,
    ErrorStatus,
    Fault,
    Faults,
    Garbage,
    LengthMismatch,
    NoDone,
    Raw,
    Refuse,
    Slow,
    SplitWrites,
    StallAfterEvents,
    StallAfterHead,
    StallBeforeHead,
)
from first_core.testing.simulator.server import Received, Simulator, run_simulator
from first_core.testing.simulator.settings import LoraAdapter, SimulatorSettings

__all__ = [
    "BrokenEvent",
    "CutAfterBytes",
    "CutAfterEvents",
    "CutInsideCharacter",
    "DoneWithoutFinish",
    "ErrorInside",
    "ErrorStatus",
    "Fault",
    "Faults",
    "Garbage",
    "LengthMismatch",
    "LoraAdapter",
    "NoDone",
    "Raw",
    "Received",
    "Refuse",
    "Simulator",
    "SimulatorSettings",
    "Slow",
    "SplitWrites",
    "StallAfterEvents",
    "StallAfterHead",
    "StallBeforeHead",
    "run_simulator",
]
