"""Two simulated servers of one model, of which the first fails on demand.

They live in the load's own process, so that a fault begins and ends at a known moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from first_core.testing.simulator import (
    ErrorStatus,
    Fault,
    Refuse,
    Simulator,
    SimulatorSettings,
    StallBeforeHead,
)

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from bench.caller import Reply

CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to fail."""

    name: str
    title: str
    fault: Fault | None
    """None: nothing listens, and open connections are reset."""
    quick_count: int
    full_count: int
    """Calls timed in a round; those that wait for something are fewer."""


KINDS: Final = (
    Kind("refuses", "refuses connections", None, quick_count=15, full_count=60),
    Kind("resets", "resets the connection", Refuse(reset=True), quick_count=60, full_count=300),
    Kind("error_500", "answers 500", ErrorStatus(status=500), quick_count=60, full_count=300),
    Kind("stalls", "stalls for 250 ms", StallBeforeHead(), quick_count=15, full_count=60),
)


class Pair:
    """A model on two servers; as a context they listen."""

    def __init__(self, kind: Kind, purpose: str) -> None:
        self.kind = kind
        self.model = f"{purpose}-{kind.name}"
        settings = SimulatorSettings(models=(self.model,), natural_token_count=10)
        self.primary = Simulator(settings)
        self.second = Simulator(settings)

    async def __aenter__(self) -> Self:
        await self.primary.start()
        await self.second.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.primary.stop()
        await self.second.stop()

    def is_primary(self, reply: Reply) -> bool:
        """Whether the first server answered; its cluster says so."""
        return reply.endpoint.startswith("first-")

    async def fail(self) -> None:
        """Begin to fail. Health checks go on to pass, but where nothing listens."""
        if self.kind.fault is None:
            await self.primary.pause_listening()
        else:
            self.primary.faults.add(self.kind.fault, times=None, path=CHAT)

    async def recover(self) -> None:
        """Be healthy again."""
        if self.kind.fault is None:
            await self.primary.resume_listening()
        else:
            self.primary.faults.clear()
