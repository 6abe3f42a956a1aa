"""Turns errors into messages for a person, and exit codes for a script."""

from __future__ import annotations

from typing import IO, Any

import click


class Failure(click.ClickException):
    """A known failure: its lines go to standard error as they are.

    Args:
        message: One line per fact; `file:line: …` stays clickable.
    """

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to standard error."""
        click.echo(self.message, file=file, err=file is None)


class CallFailure(Failure):
    """A call failed."""

    exit_code = 1


class StartFailure(Failure):
    """Settings, plugins or usage are wrong."""

    exit_code = 2


def told(exc: Exception) -> Exception:
    """Return `exc` as a `Failure` where a person can act on it, else `exc` itself."""
    from first_core.errors import FirstError, StartupError  # noqa: PLC0415 - brings grpc

    if isinstance(exc, StartupError):
        return StartFailure(str(exc))
    if isinstance(exc, FirstError):
        return CallFailure(f"{exc.reason}: {exc.message}")
    return exc
