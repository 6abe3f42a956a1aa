"""`first chat`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import click

from first_core.cli import options

if TYPE_CHECKING:
    from first_core.cli.conversation import Conversation


@click.command("chat")
@click.argument("model")
@click.argument("prompt", required=False)
@options.router
@click.option("--system", help="Instruction that stands before the conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option("--temperature", type=click.FloatRange(min=0), help="0 for the likeliest text.")
@click.option("--cluster", default="", help="Ask only this cluster.")
def command(  # noqa: PLR0917 - click passes them by name
    model: str,
    prompt: str | None,
    router_target: str,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    cluster: str,
) -> None:
    """Talk to a model through a router, over gRPC.

    With PROMPT, or a text on standard input, it prints one answer and ends. Else it is a
    conversation: Ctrl-C stops an answer, Ctrl-D ends it.
    """
    from first_core.cli.conversation import Conversation  # noqa: PLC0415 - heavy, not for --help

    parameters = {"max_tokens": max_tokens, "temperature": temperature}
    conversation = Conversation(
        router_target,
        model,
        system=system,
        cluster=cluster,
        parameters={key: value for key, value in parameters.items() if value is not None},
    )
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None:
        _ask(conversation, prompt)
    else:
        _converse(conversation)


def _ask(conversation: Conversation, prompt: str) -> None:
    """Print one answer as it arrives, and end its line even where it breaks off."""
    printed = False

    def write(text: str) -> None:
        nonlocal printed
        printed = True
        click.echo(text, nl=False)

    try:
        asyncio.run(conversation.ask(prompt, write))
    finally:
        if printed:
            click.echo()


def _converse(conversation: Conversation) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing and history
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if prompt.strip():
            _turn(conversation, prompt)


def _turn(conversation: Conversation, prompt: str) -> None:
    """Ask once; what fails is told, and the conversation goes on."""
    from first_core.cli.failures import told  # noqa: PLC0415

    try:
        _ask(conversation, prompt)
    except KeyboardInterrupt:
        click.echo("[stopped]", err=True)
    except Exception as exc:
        failure = told(exc)
        if not isinstance(failure, click.ClickException):
            raise
        failure.show()
