"""The command line `first`. Each command is a module, imported when it is used."""

from __future__ import annotations

from first_core.cli.group import main

__all__ = ["main"]
