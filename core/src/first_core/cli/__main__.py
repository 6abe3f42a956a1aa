"""`python -m first_core.cli`: the command `first`."""

from __future__ import annotations

from first_core.cli.group import main

main()
