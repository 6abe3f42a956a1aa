"""What `serve`, `router`, `gateway` and `demo` share: settings, the run, what a person is told."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import replace
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


def load(
    path: Path | None, *, http_listen: str | None = None, grpc_listen: str | None = None
) -> tuple[Settings, PluginHost]:
    """Load plugins and settings; options of the command line win over the file.

    Raises:
        StartupError: As `load_host` and `read_settings`.
    """
    host = load_host(path)
    settings = read_settings(path, host)
    core, sections = settings.core, dict(settings.sections)
    if grpc_listen is not None:
        listen = None if grpc_listen == "off" else grpc_listen
        core = _with(core, "grpc", _with(core.grpc, "listen", listen))
    if http_listen is not None:
        if "http" not in sections:
            raise SettingsError("--http: no HTTP front is installed; see first-gateway-http")
        sections["http"] = _with(sections["http"], "listen", http_listen)
    if "format" not in core.log.model_fields_set and sys.stderr.isatty():
        core = _with(core, "log", _with(core.log, "format", "text"))
    return replace(settings, core=core, sections=sections), host


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
