"""`first config`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from first_core.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.group("config")
def command() -> None:
    """Check the settings file, or print its schema."""


@command.command("check")
@options.config_argument
def check(config: Path | None) -> None:
    """Check a settings file, the plugins' sections and the secrets that it names included.

    Prints a line for each fault, `file:line: key: what is allowed`, and exits with 2.
    """
    from first_core.app import load_host, read_settings  # noqa: PLC0415 - heavy, not for --help

    read_settings(config, load_host(config))
    if config is None:
        click.echo(f"OK: no settings file ({options.DEFAULT_CONFIG} is not here), defaults hold")
    else:
        click.echo(f"OK: {config}")


@command.command("schema")
@options.config
def schema(config: Path | None) -> None:
    """Print the JSON schema of the settings file, the plugins' sections included.

    The settings file is read only for `plugins.allow`.
    """
    from first_core.app import load_host  # noqa: PLC0415 - heavy, not for --help
    from first_core.settings import settings_model  # noqa: PLC0415

    model = settings_model(load_host(config).settings_sections().offers())
    text = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(),
        "title": "Settings of FIRST gateway",
        "description": "The file first.yaml.",
    }
    click.echo(json.dumps(text, indent=2))
