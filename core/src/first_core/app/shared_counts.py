"""Calls in flight of all workers together: numbers in a file that each of them has mapped."""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from first_core.domain.bounds import UNBOUNDED
from first_core.domain.call_count import LocalCount

if TYPE_CHECKING:
    from pathlib import Path

    from first_core.domain.call_count import CallCount
    from first_core.types import EndpointId

ROWS: Final = 4096
"""Endpoints that can share a count. A row is never given up, since others may use it."""

_KEY_BYTES: Final = 16
_CELL_BYTES: Final = 4
_NO_KEY: Final = bytes(_KEY_BYTES)

_log = logging.getLogger(__name__)


def create_counts(path: Path, worker_count: int) -> None:
    """Make the file, all counts 0."""
    with path.open("xb") as file:
        file.truncate(ROWS * (_KEY_BYTES + worker_count * _CELL_BYTES))


class SharedCounts:
    """The counts of one worker, and how they stand with those of the others.

    First come the keys of all rows, then the rows: one cell per worker, which only that worker
    writes. So reading and leaving need no lock. Entering under a bound takes the row's lock, or two
    workers could both take the last place. Source: fcntl(2), advisory record locks; the kernel
    drops those of a process that dies.

    Args:
        path: Made by `create_counts`.
        worker_count: As it was made.
        worker: Number of this one, from 0.
    """

    def __init__(self, path: Path, *, worker_count: int, worker: int) -> None:
        self._file = path.open("r+b", buffering=0)
        self._map = mmap.mmap(self._file.fileno(), 0)
        self._cells = memoryview(self._map)[ROWS * _KEY_BYTES :].cast("i")
        self.worker_count = worker_count
        self._worker = worker

    def __call__(self, endpoint: EndpointId) -> CallCount:
        """Return the count of an endpoint; of this worker alone, once all rows are taken."""
        row = self._row(repr(endpoint).encode())
        if row is None:
            _log.warning("shared_counts_full", extra={"endpoint": str(endpoint)})
            return LocalCount()
        begin = row * self.worker_count
        cells = self._cells[begin : begin + self.worker_count]
        return SharedCount(cells, self._worker, self._file.fileno(), row)

    def _row(self, name: bytes) -> int | None:
        key = blake2b(name, digest_size=_KEY_BYTES).digest()
        first = int.from_bytes(key[:4], "big")
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, ROWS, os.SEEK_SET)
        try:
            for step in range(ROWS):
                row = (first + step) % ROWS
                begin = row * _KEY_BYTES
                found = self._map[begin : begin + _KEY_BYTES]
                if found == _NO_KEY:
                    self._map[begin : begin + _KEY_BYTES] = key
                if found in {key, _NO_KEY}:
                    return row
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, ROWS, os.SEEK_SET)
        return None

    def close(self) -> None:
        """Count no further calls; those that are in may still leave. Safe to repeat."""
        self._file.close()

    def forget(self, worker: int) -> None:
        """Count the calls of a worker that has died no more."""
        for row in range(ROWS):
            self._cells[row * self.worker_count + worker] = 0


class SharedCount:
    """The count of one endpoint."""

    __slots__ = ("_cells", "_fd", "_row", "_worker")

    def __init__(self, cells: memoryview[int], worker: int, fd: int, row: int) -> None:
        self._cells = cells
        self._worker = worker
        self._fd = fd
        self._row = row

    @property
    def total(self) -> int:
        """Calls inside now, of all workers."""
        return sum(self._cells)

    def try_add(self, limit: int) -> bool:
        """Count one more call, unless there are `limit` already."""
        if limit >= UNBOUNDED:
            self._cells[self._worker] += 1
            return True
        # Held by others for microseconds, so this does not block in any sense that matters.
        fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._row, os.SEEK_SET)
        try:
            if sum(self._cells) >= limit:
                return False
            self._cells[self._worker] += 1
            return True
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._row, os.SEEK_SET)

    def remove(self) -> None:
        """Count one call less."""
        self._cells[self._worker] -= 1
