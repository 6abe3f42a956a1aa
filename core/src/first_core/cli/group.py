"""The command `first`: a table of commands, and those that plugins bring."""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any, Final

import click

from first_core.cli.failures import told

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "serve": ("serve", "Run the gateway: front and router in one process."),
    "router": ("router", "Run the router alone, for gRPC clients and fronts elsewhere."),
    "gateway": ("gateway", "Run the front alone, before a router elsewhere."),
    "chat": ("chat", "Talk to a model through a router, over gRPC."),
    "models": ("models", "List models and endpoints, with their state."),
    "route": ("route", "Explain where a call would go, and why."),
    "plugins": ("plugins", "List the plugins that are installed."),
    "config": ("config", "Check the settings file, or print its schema."),
    "sim": ("sim", "Run a simulated inference server that behaves as vLLM does."),
    "demo": ("demo", "Run the gateway before two simulated clusters, north and south."),
}
"""Name to module and short help, so that `first --help` imports none of them."""

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C where that is no good end: 128 plus the signal's number, as shells do."""


class FirstGroup(click.Group):
    """Finds its commands when they are asked for; built-in ones win over those of plugins."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of_plugins: dict[str, click.Command] | None = None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names, plugins' commands last."""
        try:
            return [*COMMANDS, *sorted(self._plugin_commands())]
        except click.ClickException as exc:
            # A broken plugin must not take the help away.
            exc.show()
            return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command, importing what it needs."""
        if cmd_name in COMMANDS:
            module = importlib.import_module(f"first_core.cli.{COMMANDS[cmd_name][0]}")
            command: click.Command = module.command
            return command
        return self._plugin_commands().get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing the built-in ones."""
        names = self.list_commands(ctx)
        rows = [(name, self._short_help(ctx, name)) for name in names]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _short_help(self, ctx: click.Context, name: str) -> str:
        if name in COMMANDS:
            return COMMANDS[name][1]
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=80) if command else ""

    def _plugin_commands(self) -> dict[str, click.Command]:
        if self._of_plugins is None:
            from first_core.cli.plugin_commands import load  # noqa: PLC0415 - only where needed

            self._of_plugins = load(taken=COMMANDS)
        return self._of_plugins

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what goes wrong in a known way becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as exc:  # the edge of the process
            raise told(exc) from exc


@click.group(cls=FirstGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="first-core", prog_name="first")
def first() -> None:
    """One address for many inference servers: routes calls to models, wherever they run."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Exit codes: 0 it worked, 1 a call failed, 2 wrong usage or settings, 130 interrupted.
    """
    first.main(args=args, prog_name="first")
