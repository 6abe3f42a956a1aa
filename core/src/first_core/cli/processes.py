"""What `serve`, `router`, `gateway` and `demo` share: settings, the run, what a person is told."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from first_core.app import load_host, read_settings
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
        if "format" not in core.log.model_fields_set and sys.stderr.isatty():
            core = _with(core, "log", _with(core.log, "format", "text"))
        return replace(settings, core=core, sections=sections)


def source(
    path: Path | None, *, http_listen: str | None = None, grpc_listen: str | None = None
) -> Source:
    """Load the plugins, and return where settings are read from.

    Raises:
        StartupError: As `load_host`.
    """
    return Source(path, load_host(path), http_listen, grpc_listen)


def _with(section: Any, field: str, value: object) -> Any:
    copy: Section = section.model_copy(update={field: value})
    return copy


async def serve(process: Process, announcement: Announcement) -> None:
    """Run a process until SIGINT or SIGTERM, and tell a person on standard error what it does.

    Args:
        process: Not started yet.
        announcement: What is told.
    """
    telling: list[asyncio.Task[None]] = []

    def tell(addresses: list[str]) -> None:
        click.echo(announcement.start(addresses), err=True)
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


def _say(text: str) -> None:
    click.echo(text, err=True)
