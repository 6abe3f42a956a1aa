"""A sink that keeps what it gets and watches how it is used."""

from __future__ import annotations

import asyncio


class RecordingSink:
    """A `ChunkSink` for rules.

    Args:
        gate: `drain` returns when it is set. With one, the sink is behind after each write.
        behind: Whether the sink is behind after each write.
    """

    def __init__(self, *, gate: asyncio.Event | None = None, behind: bool = False) -> None:
        self.content_type: str | None = None
        """As `start` told it."""
        self.pieces: list[bytes] = []
        """What was written, in order."""
        self.misuses: list[str] = []
        """What the backend did that `ChunkSink` forbids."""
        self.draining = asyncio.Event()
        """Set once `drain` was called."""
        self._gate = gate
        self._behind = behind or gate is not None
        self._must_drain = False
        self._written = asyncio.Event()

    @property
    def data(self) -> bytes:
        """All that was written."""
        return b"".join(self.pieces)

    def start(self, content_type: str) -> None:
        """Keep the content type."""
        if self.content_type is not None:
            self.misuses.append("`start` was called twice")
        self.content_type = content_type

    def write(self, data: bytes) -> bool:
        """Keep the bytes."""
        if self.content_type is None:
            self.misuses.append("`write` came before `start`")
        if self._must_drain:
            self.misuses.append("`write` came before `drain` had returned")
        if not isinstance(data, bytes):
            self.misuses.append(f"`write` got {type(data).__name__}, not bytes")
        self.pieces.append(bytes(data))
        self._written.set()
        self._must_drain = self._behind
        return self._behind

    async def drain(self) -> None:
        """Wait for the gate."""
        self.draining.set()
        if self._gate is not None:
            await self._gate.wait()
        self._must_drain = False

    async def wait_for(self, data: bytes) -> None:
        """Wait until all of `data` has been written."""
        while data not in self.data:
            self._written.clear()
            await self._written.wait()
