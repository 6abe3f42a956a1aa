"""`first` itself."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import json
import subprocess
import sys

import pytest

from first_core.cli.group import COMMANDS

HEAVY = ("grpc", "pydantic", "aiohttp", "opentelemetry", "yaml", "asyncio")

LOADED_BY_HELP = f"""
import sys
from first_core.cli import main
try:
    main(["--help"])
except SystemExit:
    import json
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)
"""


async def test_help_names_all_commands(cli):
    """`first --help` lists each command with what it does."""
    ended = await cli("--help")

    assert ended.code == 0
    for name, (_, text) in COMMANDS.items():
        assert f"  {name} " in ended.out
        assert text in ended.out


def test_help_is_light():
    """`first --help` loads nothing heavy, so that it and completion are quick."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED_BY_HELP], capture_output=True, check=True, text=True
    )

    assert json.loads(done.stderr) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_command_help_begins_as_in_the_list(name):
    """Each command's own help begins with the sentence that the list has."""
    module, text = COMMANDS[name]
    command = importlib.import_module(f"first_core.cli.{module}").command

    assert command.name == name
    assert inspect.cleandoc(command.help).split("\n\n")[0].replace("\n", " ") == text


async def test_version(cli):
    """`first --version` tells the distribution's version."""
    ended = await cli("--version")

    assert ended.out == f"first, version {importlib.metadata.version('first-core')}\n"


async def test_completion(cli):
    """The shell gets a script that completes commands."""
    cli.env["_FIRST_COMPLETE"] = "bash_complete"
    cli.env["COMP_WORDS"] = "first se"
    cli.env["COMP_CWORD"] = "1"

    ended = await cli()

    assert ended.out == "plain,serve\n"


async def test_unknown_command(cli):
    """A command that nobody offers is wrong usage."""
    ended = await cli("fly")

    assert ended.code == 2
    assert "No such command 'fly'" in ended.err
