"""Runs a serving command as several workers on one port."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from first_core.app.supervisor import Supervisor
from first_core.app.workers import Worker, metrics_folder, prepare_folder, reserve_port
from first_core.cli.announcement import Announcement
from first_core.cli.loops import run
from first_core.clock import SystemClock
from first_core.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.app.shared_counts import SharedCounts
    from first_core.cli.processes import Source
    from first_core.settings import Settings

LISTENERS: Final = {"serve": ("http", "grpc"), "router": ("grpc",), "gateway": ("http",)}
"""What listens, by command."""


def run_workers(name: str, source: Source, count: int, extra: Sequence[str] = ()) -> None:
    """Run `count` workers of the command `name` until a signal, then exit.

    Args:
        name: `serve`, `router` or `gateway`.
        source: Of the settings.
        count: How many, 2 or more.
        extra: Further arguments of the command.

    Raises:
        StartupError: The settings do not allow it, or an address cannot be had.
    """
    settings = source.read()
    _check(settings)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="first-")))
        arguments = [name, *extra]
        if source.path is not None:
            arguments += ["--config", str(source.path)]
        for key in LISTENERS[name]:
            arguments += [f"--{key}", _reserved(settings, key, stack)]
        counts = stack.enter_context(contextlib.closing(prepare_folder(folder, count)))
        code = _supervise(arguments, settings, folder, counts)
    raise click.exceptions.Exit(code)


def _check(settings: Settings) -> None:
    for key, section in settings.sections.items():
        reason = section.needs_one_process()
        if reason:
            raise StartupError(f"--workers: {key}: {reason}; leave --workers out")


def _reserved(settings: Settings, key: str, stack: contextlib.ExitStack) -> str:
    section = settings.core.grpc if key == "grpc" else settings.sections.get(key)
    listen = getattr(section, "listen", None)
    if listen is None:
        return "off"
    address, held = reserve_port(str(listen), f"{key}.listen")
    stack.enter_context(held)
    return address


def _supervise(
    arguments: Sequence[str], settings: Settings, folder: Path, counts: SharedCounts
) -> int:
    count = counts.worker_count

    def command(number: int) -> Sequence[str]:
        worker = Worker(number, count, folder)
        return ["-m", "first_core.cli", *arguments, "--worker", str(worker)]

    def started(addresses: list[str]) -> None:
        click.echo(Announcement(settings, None).start(addresses), err=True)
        click.echo(f"  with {count} workers", err=True)

    code = 0

    async def work() -> None:
        nonlocal code
        supervisor = Supervisor(
            command,
            count,
            metrics_folder=metrics_folder(folder),
            counts=counts,
            clock=SystemClock(),
            tell=lambda text: click.echo(text, err=True),
        )
        code = await supervisor.run(started)

    run(work())
    return code
