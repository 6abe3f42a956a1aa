"""Source of functions that sites register; each file runs by itself on a compute node."""

from __future__ import annotations

from importlib import resources


def source(name: str) -> str:
    """Return the text of a function's file, ready to be registered."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text(encoding="utf-8")
