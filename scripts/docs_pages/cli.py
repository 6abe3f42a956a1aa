"""docs/reference/cli.md, from the commands themselves."""

from __future__ import annotations

import inspect

import click

from docs_pages import NOTE, one_line, table
from first_core.cli.group import COMMANDS, first

INTRO = """\
# Command line

Exit codes: 0 it worked, 1 a call failed, 2 wrong usage, settings or plugins, 130 interrupted.
What scripts may read goes to standard output; everything else goes to standard error.
Plugins may add commands: `first --help` lists them too.

Completion for the shell comes with it:

```sh
eval "$(_FIRST_COMPLETE=bash_source first)"   # in ~/.bashrc; zsh_source and fish_source likewise
```
"""


def page() -> str:
    """Return the page."""
    context = click.Context(first, info_name="first")
    lines = [NOTE, "", INTRO]
    for name in COMMANDS:
        command = first.get_command(context, name)
        assert command is not None
        lines += _command(command, click.Context(command, info_name=name, parent=context))
    return "\n".join(lines).rstrip() + "\n"


def _command(command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## `{context.command_path}`", "", f"    {context.command_path} {usage}", ""]
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        lines += [one_line(paragraph), ""]
    options = [p for p in command.params if isinstance(p, click.Option)]
    if options:
        header = ["Option", "Default", "Environment", "Meaning"]
        lines += [*table(header, [_option(option, context) for option in options]), ""]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            lines += _command(below, click.Context(below, info_name=name, parent=context))
    return lines


def _option(option: click.Option, context: click.Context) -> list[str]:
    value = "" if option.is_flag else f" {option.make_metavar(context).removesuffix(' RANGE')}"
    default = option.get_default(context)
    if option.is_flag or default is None or default == "" or repr(default) == "Sentinel.UNSET":
        text = "*required*" if option.required else ""
    else:
        shown = default if isinstance(default, list | tuple) else [default]
        text = f"`{' '.join(map(str, shown))}`"
    variable = f"`{option.envvar}`" if option.envvar else ""
    return [f"`{option.opts[-1]}{value}`", text, variable, option.help or ""]
