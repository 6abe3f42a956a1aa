from __future__ import annotations

import pytest

from first_core.testing.clock import FakeClock
from first_direct.upstream import Key, KeyRing, ListedModel, ListError, parse_models


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def keys() -> list[Key]:
    return [Key({"key": name}) for name in "abc"]


def names(ring: KeyRing, count: int) -> str:
    return "".join(ring.take().headers["key"] for _ in range(count))


def test_keys_are_used_in_turn(keys, clock):
    """The load is spread evenly."""
    assert names(KeyRing(keys, clock), 7) == "abcabca"


def test_key_that_rests_is_passed_over(keys, clock):
    """A key at its limit gets no call until it wakes."""
    ring = KeyRing(keys, clock)
    ring.rest(keys[1], 5.0)

    resting = names(ring, 4)
    clock.advance(5.0)

    assert resting == "acac"
    assert "b" in names(ring, 3)


def test_key_that_wakes_first_is_used_where_all_rest(keys, clock):
    """A call is tried rather than refused: the provider may be more lenient than it said."""
    ring = KeyRing(keys, clock)
    for key, seconds in zip(keys, (5.0, 3.0, 9.0), strict=True):
        ring.rest(key, seconds)

    assert names(ring, 2) == "bb"


def test_rest_tells_whether_another_key_is_awake(keys, clock):
    """Only then it makes sense to try at once."""
    ring = KeyRing(keys[:2], clock)

    assert ring.rest(keys[0], 5.0)
    assert not ring.rest(keys[1], 5.0)


def test_models_are_read_from_lists_of_all_kinds():
    """OpenAI, Anthropic and gateways differ in what they tell beside the id."""
    body = (
        b'{"data": [{"id": "a", "owned_by": "acme"}, {"type": "model", "id": "b"},'
        b' {"id": "c", "context_length": 4096}, {"id": "d", "max_model_len": 8192}], "more": 1}'
    )

    assert parse_models(body) == [
        ListedModel("a", "acme"),
        ListedModel("b"),
        ListedModel("c", "", 4096),
        ListedModel("d", "", 8192),
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": {}}', b"<html>"])
def test_list_that_is_not_readable_is_told(body):
    """What is no list of models is no empty one."""
    with pytest.raises(ListError):
        parse_models(body)
