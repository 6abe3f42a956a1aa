"""What a measure with systems of its own gets, and gives back."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bench.processes import Running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from bench.measure import Sample
    from bench.sheets import Sheet
    from bench.systems import System


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a scenario plays."""

    core: int
    """Core of the gateways; engines and load have `load_core`."""
    load_core: int
    folder: Path
    first: str
    """The `first` command to measure."""
    quick: bool
    turn: int
    """Which round this is, from 0."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A measure that starts what it needs, anew in each round, and stops it."""

    run: Callable[[Stage], Awaitable[dict[str, Sample]]]
    """Returns column to sample."""
    sheets: tuple[Sheet, ...]


class Cast:
    """The processes of one scenario; all are stopped at its end."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._stack = ExitStack()

    def start(self, system: System, core: int) -> Running:
        running = Running(system, core=core, folder=self._stage.folder)
        self._stack.callback(running.stop)
        return running

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
