"""Each hook is documented and tested."""

from __future__ import annotations

import inspect
import re

import pytest

from first_core.plugin import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("first_"))


@pytest.mark.parametrize("name", HOOKS)
def test_hook_is_documented(root, name):
    """docs/reference/hooks.md has a section for each hook, with its exact signature."""
    page = (root / "docs/reference/hooks.md").read_text()
    signature = str(inspect.signature(getattr(hookspecs, name))).replace("'", "")

    assert f"## `{name}`\n\n```python\ndef {name}{signature}: ...\n```\n" in page


def test_documented_hooks_exist(root):
    """The page has no hook that is gone."""
    page = (root / "docs/reference/hooks.md").read_text()

    assert sorted(re.findall(r"^## `(first_\w+)`$", page, re.MULTILINE)) == HOOKS


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_test(root, name):
    """Each hook has a test that carries its name."""
    texts = [path.read_text() for path in (root / "tests").rglob("test_*.py")]

    assert any(f"def test_hook_{name}(" in text for text in texts)


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_docstring(name):
    """Each hook says what it is for and when it is called."""
    text = inspect.getdoc(getattr(hookspecs, name)) or ""

    assert "Called" in text
