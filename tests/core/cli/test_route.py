"""`first route explain`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
async def target(cli, settings):
    """Address of a router that knows a ready model."""
    async with cli.running("router", "--config", settings) as router:
        address = await router.address("grpc")
        await router.wait_told("m (north ready)")
        yield address


async def test_explain_shows_the_choice(cli, target):
    """The line of the chosen endpoint is marked, and the outcome stands above."""
    ended = await cli("route", "explain", "m", "--router", target)

    assert ended.out.startswith("model m, policy first: the first attempt goes to north/vllm/m\n")
    assert "\n->  north" in ended.out


async def test_explain_prints_json(cli, target):
    """Scripts get every figure."""
    ended = await cli("route", "explain", "m", "--router", target, "--json")

    candidate = json.loads(ended.out)["candidates"][0]
    assert (candidate["cluster"], candidate["chosen"]) == ("north", True)
    assert candidate["in_flight_count"] == 0


async def test_explain_of_an_unknown_model_fails(cli, target):
    """It ends with 1 and says what is wrong."""
    ended = await cli("route", "explain", "nobody", "--router", target)

    assert ended.code == 1
    assert "'nobody' does not exist" in ended.err
