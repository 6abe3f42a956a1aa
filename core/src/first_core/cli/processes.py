"""What `serve`, `router`, `gateway` and `demo` share: settings, the run, what a person is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from first_core.app import load_host, read_settings
from first_core.app.workers import Worker
from first_core.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from first_core.app import Process
    from first_core.cli.announcement import Announcement
    from first_core.plugin.host import PluginHost
    from first_core.settings import Section, Settings


@dataclass(frozen=True, slots=True)
class Source:
    """Where the settings of a process come from: a file, and options that win over it."""

    path: Path | None
    """The file; `None`: there is none."""
    host: PluginHost
    """The plugins, whose sections stand in the file."""
    http_listen: str | None = None
    """Instead of `http.listen`."""
    grpc_listen: str | None = None
    """Instead of `grpc.listen`; `off` turns it off."""
    worker: Worker | None = None
    """Which worker this process is, where several share a port."""

    def read(self) -> Settings:
        """Read and validate the settings; again for each reload.

        Raises:
            StartupError: As `read_settings`.
        """
        settings = read_settings(self.path, self.host)
        core, sections = settings.core, dict(settings.sections)
        if self.grpc_listen is not None:
            listen = None if self.grpc_listen == "off" else self.grpc_listen
            core = _with(core, "grpc", _with(core.grpc, "listen", listen))
        if self.http_listen is not None:
            if "http" not in sections:
                raise SettingsError("--http: no HTTP front is installed; see first-gateway-http")
            sections["http"] = _with(sections["http"], "listen", self.http_listen)
        if self.worker is not None and "http" in sections:
            sections["http"] = _with(sections["http"], "reuse_port", value=True)
        if "format" not in core.log.model_fields_set and sys.stderr.isatty():
            core = _with(core, "log", _with(core.log, "format", "text"))
        return replace(settings, core=core, sections=sections)


def source(
    path: Path | None,
    *,
    http_listen: str | None = None,
    grpc_listen: str | None = None,
    worker: str | None = None,
) -> Source:
    """Load the plugins, and return where settings are read from.

    Raises:
        StartupError: As `load_host`.
    """
    which = None if worker is None else Worker.parse(worker)
    return Source(path, load_host(path), http_listen, grpc_listen, which)


def _with(section: Any, field: str, value: object) -> Any:
    copy: Section = section.model_copy(update={field: value})
    return copy


async def serve(process: Process, announcement: Announcement, worker: Worker | None = None) -> None:
    """Run a process until SIGINT or SIGTERM, and tell a person on standard error what it does.

    Args:
        process: Not started yet.
        announcement: What is told.
        worker: Which one it is; it tells its supervisor the addresses, and ends with it.
    """
    telling: list[asyncio.Task[None]] = []

    def tell(addresses: list[str]) -> None:
        text = announcement.start(addresses)
        if worker is None:
            click.echo(text, err=True)
        else:
            click.echo(json.dumps(addresses))
            telling.append(asyncio.ensure_future(_end_with_supervisor(process)))
        if worker is None or worker.leads:
            telling.append(asyncio.ensure_future(_tell_models(announcement)))

    try:
        await process.run(tell, _say)
    finally:
        for task in telling:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def _tell_models(announcement: Announcement) -> None:
    click.echo(await announcement.models(), err=True)


async def _end_with_supervisor(process: Process) -> None:
    """End at once when standard input ends: whoever holds its other end has died."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        await reader.read()
        process.end_now()
    finally:
        transport.close()


def _say(text: str) -> None:
    click.echo(text, err=True)
