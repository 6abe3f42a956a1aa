"""Commands that plugins bring."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

from first_core.cli.failures import StartFailure, told
from first_core.cli.options import DEFAULT_CONFIG

if TYPE_CHECKING:
    from collections.abc import Collection

    import click

_HOOK: Final = "first_register_commands"


def load(*, taken: Collection[str]) -> dict[str, click.Command]:
    """Return the commands that the installed plugins offer, by name.

    Args:
        taken: Names of built-in commands, which plugins cannot replace.

    Raises:
        StartFailure: A plugin cannot be loaded, or offers a name that is taken.
    """
    if not _any_offer():
        return {}
    from first_core.app import load_host  # noqa: PLC0415 - heavy, and mostly not needed

    try:
        offers = load_host(DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None).commands().offers()
    except Exception as exc:
        raise told(exc) from exc
    conflicts = sorted(set(offers) & set(taken))
    if conflicts:
        raise StartFailure(f"a plugin offers the built-in command {conflicts[0]!r}")
    return offers


def _any_offer() -> bool:
    """Tell whether a plugin may offer commands, without importing what is not needed.

    Loading the host costs more than all else that `first --help` does, and hardly any plugin has
    commands: one that has names the hook in its module.
    """
    entries = importlib.metadata.entry_points(group="first.plugins")
    return any(_may_offer(entry) for entry in entries)


def _may_offer(entry: importlib.metadata.EntryPoint) -> bool:
    if entry.attr:
        return True  # an object, which may get its hooks from anywhere
    try:
        spec = importlib.util.find_spec(entry.module)
        if spec is None or spec.origin is None:
            return True  # loading it will tell what is wrong
        return _HOOK in Path(spec.origin).read_text(encoding="utf-8")
    except Exception:
        return True  # its package fails at import: loading it will tell
