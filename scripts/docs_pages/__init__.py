"""One module per generated reference page; see scripts/gen_docs.py."""

from __future__ import annotations

NOTE = "<!-- Made by scripts/gen_docs.py; edit the code that it comes from. -->"


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in [header, ["---"] * len(header), *rows]
    ]


def one_line(text: str) -> str:
    """Return a text of several lines as one."""
    return " ".join(text.split())
