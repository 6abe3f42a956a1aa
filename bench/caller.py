"""One connection that calls and says who answered."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

from bench.load import Connection, Tally, Work


@dataclass(frozen=True, slots=True)
class Reply:
    """How one call went."""

    took_s: float
    fault: str
    """Why the answer is wrong; empty: it is right."""
    attempt_count: int
    """As the gateway tells it; 0: it tells none."""
    endpoint: str
    """The same."""


class _Telling(Connection):
    """Keeps the header fields of the last answer."""

    fields: dict[str, str]

    def on_message_begin(self) -> None:
        self.fields = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[name.decode("latin-1").lower()] = value.decode("latin-1")


class Caller:
    """One call at a time; dials again where the connection was closed."""

    def __init__(self, port: int, work: Work) -> None:
        self._port = port
        self._work = work
        self._tally = Tally()
        self._connection: _Telling | None = None
        self._ended: asyncio.Future[None] | None = None

    async def call(self) -> Reply:
        """Call and wait for the answer.

        Raises:
            OSError: There is nothing at the port.
        """
        connection = self._connection or await self._dial()
        connection.fields = {}
        self._tally.errors = Counter()
        self._ended = asyncio.get_running_loop().create_future()
        begin_s = time.perf_counter()
        connection.send(self._work)
        if not self._tally.errors:
            await self._ended
        took_s = time.perf_counter() - begin_s
        fields = connection.fields
        return Reply(
            took_s,
            next(iter(self._tally.errors), ""),
            int(fields.get("x-first-attempts", "0")),
            fields.get("x-first-endpoint", ""),
        )

    def close(self) -> None:
        if self._connection is not None:
            self._connection.work = None
            self._connection.abort()

    async def _dial(self) -> _Telling:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Telling(self._tally, self._on_idle, self._on_lost), "127.0.0.1", self._port
        )
        self._connection = connection
        return connection

    def _on_idle(self, _connection: Connection) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _on_lost(self, connection: Connection) -> None:
        self._connection = None
        self._on_idle(connection)
