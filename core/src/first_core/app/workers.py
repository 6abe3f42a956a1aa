"""Several processes on one port: what each of them knows of the others."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from first_core.app.shared_counts import SharedCounts, create_counts
from first_core.errors import StartupError
from first_core.settings import ListenAddress


@dataclass(frozen=True, slots=True)
class Worker:
    """One of several processes that share a port."""

    number: int
    """From 0."""
    count: int
    """How many there are."""
    folder: Path
    """Where they share what they count; the supervisor makes and removes it."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `__str__` writes."""
        number, count, folder = text.split("/", 2)
        return cls(int(number), int(count), Path(folder))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}/{self.folder}"

    @property
    def leads(self) -> bool:
        """Whether it does what one of them must do for all."""
        return self.number == 0

    @property
    def metrics_folder(self) -> Path:
        """Where all of them count."""
        return metrics_folder(self.folder)

    def counts(self) -> SharedCounts:
        """Return the counts of calls in flight."""
        path = _counts_path(self.folder)
        return SharedCounts(path, worker_count=self.count, worker=self.number)


def metrics_folder(folder: Path) -> Path:
    """Return where workers count for Prometheus."""
    return folder / "metrics"


def _counts_path(folder: Path) -> Path:
    return folder / "calls"


def prepare_folder(folder: Path, worker_count: int) -> SharedCounts:
    """Make what workers share, and return the counts of calls, to forget those of the dead."""
    metrics_folder(folder).mkdir()
    create_counts(_counts_path(folder), worker_count)
    return SharedCounts(_counts_path(folder), worker_count=worker_count, worker=0)


def reserve_port(listen: str, key: str) -> tuple[str, socket.socket]:
    """Take a port for workers, and return the address with its number.

    Nobody connects to the socket, since it does not listen; while it is open, no other program gets
    the port, also when all workers are down.

    Args:
        listen: Address as in the settings; port 0 takes a free one.
        key: The setting, for messages.

    Raises:
        StartupError: It is taken, or a unix socket, which processes cannot share.
    """
    address = ListenAddress.parse(listen)
    if address.unix:
        raise StartupError(f"{key}: several workers need host:port, not a unix socket")
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Without SO_REUSEPORT it fails where another gateway shares the port already.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address.host, address.port))
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address.host, address.port))
    except OSError as exc:
        raise StartupError(f"{key}: cannot listen at {listen}: {exc.strerror or exc}") from exc
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{held.getsockname()[1]}", held
