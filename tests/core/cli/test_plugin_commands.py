"""Commands that plugins bring."""

from __future__ import annotations

import pytest

GOOD = """
import click
from first_core.plugin import hookimpl


@click.command(help="Wave at somebody.")
@click.argument("whom")
def wave(whom):
    click.echo(f"waves at {whom}")


@hookimpl
def first_register_commands(register):
    register("NAME", wave)
"""


@pytest.fixture
def install(cli):
    """Install a plugin whose module has this text."""

    def write(text):
        site = cli.folder / "site"
        info = site / "first_wave-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: first-wave\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[first.plugins]\nwave = first_wave\n")
        (site / "first_wave.py").write_text(text)
        cli.env["PYTHONPATH"] = str(site)

    return write


async def test_hook_first_register_commands(cli, install):
    """A plugin's command runs as one of ours, and `first --help` lists it."""
    install(GOOD.replace("NAME", "wave"))

    ran = await cli("wave", "you")
    listed = await cli("--help")

    assert (ran.code, ran.out) == (0, "waves at you\n")
    assert "Wave at somebody." in listed.out


async def test_a_plugin_cannot_replace_a_command(cli, install):
    """A built-in name is refused where commands of plugins are asked for; ours still runs."""
    install(GOOD.replace("NAME", "serve"))

    asked = await cli("fly")
    ours = await cli("serve", "--help")

    assert asked.code == 2
    assert "built-in command 'serve'" in asked.err
    assert ours.code == 0


@pytest.mark.parametrize(
    "text", ["import nowhere\n", "import nowhere  # first_register_commands\n"]
)
async def test_a_broken_plugin_is_told(cli, install, text):
    """A plugin that cannot be loaded gives its name and the cause, no traceback."""
    install(text)

    for args in (("config", "check"), ("plugins",), ("serve", "--http", "127.0.0.1:0")):
        ended = await cli(*args)

        assert ended.code == 2
        assert ended.err == "plugin 'wave' (first_wave): No module named 'nowhere'\n"


async def test_a_broken_plugin_leaves_the_help(cli, install):
    """`first --help` lists our commands whatever a plugin does, and tells what is missing."""
    install("import nowhere  # first_register_commands\n")

    ended = await cli("--help")

    assert ended.code == 0
    assert "  serve " in ended.out
    assert "plugin 'wave'" in ended.err


async def test_a_misspelt_hook_is_told(cli, install):
    """A hook that does not exist is found at the start."""
    install(GOOD.replace("first_register_commands", "first_register_comands"))

    ended = await cli("config", "check")

    assert ended.code == 2
    assert "first_register_comands" in ended.err
