"""Where things are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def sources() -> dict[str, str]:
    """Text of every module that we ship, by its path from the root; generated ones left out."""
    folders = ["core/src", "gateway_http/src", "plugins"]
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(paths)}
