#!/usr/bin/env python3
"""Checks the notes in `changes/`: their names, and that users can read them.

One file per change that users see: `changes/+<slug>.<kind>.md`, a sentence or more for users, which
begins with the name of the distribution that changed. `towncrier build` moves them to CHANGELOG.md.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("added", "changed", "deprecated", "removed", "fixed", "security")
NAME = re.compile(rf"\+[a-z0-9][a-z0-9-]*\.({'|'.join(KINDS)})\.md")


def distributions() -> list[str]:
    """Return the names of this repository's distributions."""
    paths = [*ROOT.glob("*/pyproject.toml"), *ROOT.glob("plugins/*/pyproject.toml")]
    return sorted(tomllib.loads(path.read_text())["project"]["name"] for path in paths)


def faults(path: Path, names: list[str]) -> list[str]:
    """Return what is wrong with one note."""
    found = []
    if not NAME.fullmatch(path.name):
        found.append(f"name it +<slug>.<{'|'.join(KINDS)}>.md, the slug in a-z, 0-9 and -")
    text = path.read_text(encoding="utf-8").strip()
    if not text.startswith(tuple(f"{name}: " for name in names)):
        found.append(f"begin with one of {', '.join(names)}, then a colon")
    if not text.endswith("."):
        found.append("write whole sentences")
    return found


def main() -> int:
    names = distributions()
    count = 0
    for path in sorted((ROOT / "changes").iterdir()):
        for fault in faults(path, names):
            print(f"{path.relative_to(ROOT)}: {fault}", file=sys.stderr)
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    raise SystemExit(main())
