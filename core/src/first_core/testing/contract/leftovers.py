"""What a process holds open, to tell what a backend left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Final

_DIRECTORIES: Final = (Path("/proc/self/fd"), Path("/dev/fd"))


class Leftovers:
    """Takes stock when made; `found` tells what has come since and is still there."""

    def __init__(self) -> None:
        self._tasks = asyncio.all_tasks()
        self._files = _open_files()

    def found(self) -> list[str]:
        """Return a line for each `asyncio.Task`, socket and file that was not there."""
        tasks = [repr(task) for task in asyncio.all_tasks() - self._tasks]
        return tasks + sorted((_open_files() - self._files).elements())


def _open_files() -> Counter[str]:
    directory = next((path for path in _DIRECTORIES if path.is_dir()), None)
    if directory is None:
        return Counter()  # no such directory on this system: tasks alone are counted
    return Counter(_target(path) for path in list(directory.iterdir()))


def _target(path: Path) -> str:
    try:
        target = str(path.readlink())
    except OSError:  # the descriptor of the listing itself is gone by now
        return "file descriptor"
    return target.partition(":")[0] if target.startswith(("socket:", "pipe:")) else target
