"""What makes two calls go to the same endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from first_core.domain.affinity import PREFIX_BYTES, affinity_key


def test_the_session_key_counts_most(world: Any) -> None:
    """Whatever the prompt."""
    w = world()

    assert affinity_key(w.incoming(b'{"prompt":"a"}', session_key="s")) == affinity_key(
        w.incoming(b'{"prompt":"b"}', session_key="s")
    )


@pytest.mark.parametrize("name", ["messages", "prompt", "input"])
def test_equal_beginnings_have_equal_keys(world: Any, name: str) -> None:
    """What stands before the prompt, and what comes late in it, makes no difference."""
    w = world()
    text = "x" * PREFIX_BYTES
    one = f'{{"model":"m","{name}":"{text} one"}}'.encode()
    two = f'{{"temperature":1,"model":"m","{name}":"{text} two"}}'.encode()
    other = f'{{"model":"m","{name}":"y{text}"}}'.encode()

    assert affinity_key(w.incoming(one)) == affinity_key(w.incoming(two))
    assert affinity_key(w.incoming(one)) != affinity_key(w.incoming(other))


def test_no_prompt_no_key(world: Any) -> None:
    """Nothing to compare, nothing to gain."""
    assert affinity_key(world().incoming(b'{"model":"m"}')) == b""
