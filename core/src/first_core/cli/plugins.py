"""`first plugins`."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from first_core.cli import options
from first_core.cli.tables import table

if TYPE_CHECKING:
    from pathlib import Path


@click.command("plugins")
@options.config
@options.as_json
def command(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click
    """List the plugins that are installed.

    Those that `plugins.allow` of the settings leaves out are not loaded and not listed.
    """
    from first_core.app import load_host  # noqa: PLC0415 - heavy, not for --help

    found = load_host(config).plugins()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(plugin) for plugin in found], indent=2))
        return
    header = ("PLUGIN", "DISTRIBUTION", "VERSION", "HOOKS")
    rows = [(p.name, p.distribution, p.version, ", ".join(p.hooks)) for p in found]
    click.echo(table(header, rows) if rows else "no plugins are installed")
