"""`first models`."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
async def target(cli, settings):
    async with cli.running("serve", "--config", settings) as gateway:
        target = await gateway.address("grpc")
        await gateway.wait_told("curl")
        yield target


async def test_models_table(cli, target):
    """A person gets a line per model, with state and clusters."""
    ended = await cli("models", "--router", target)

    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == ["MODEL", "STATE", "CLUSTERS", "CONTEXT", "OPERATIONS"]
    assert [line[:4] for line in lines[1:]] == [
        ["m", "ready", "north", "8192"],
        ["other", "ready", "north", "8192"],
    ]


async def test_models_json(cli, target):
    """A script gets all fields."""
    cli.env["FIRST_ROUTER"] = target

    ended = await cli("models", "--json")

    model = json.loads(ended.out)[0]
    assert (model["id"], model["state"], model["clusters"]) == ("m", "ready", ["north"])
    assert model["context_window_token_count"] == 8192
    assert "chat" in model["operations"]


async def test_models_endpoints(cli, target):
    """`--endpoints` gives a line per endpoint, with the parts of its name."""
    ended = await cli("models", "--endpoints", "--router", target)

    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0][:3] == ["CLUSTER", "FRAMEWORK", "MODEL"]
    assert lines[1][:6] == ["north", "vllm", "m", "-", "ready", "vllm"]


async def test_models_endpoints_json(cli, target):
    """A script gets the endpoint's load too."""
    ended = await cli("models", "--endpoints", "--json", "--router", target)

    endpoint = json.loads(ended.out)[0]
    assert (endpoint["cluster"], endpoint["model"]) == ("north", "m")
    assert endpoint["running_count"] == 0


async def test_models_without_router(cli):
    """Where no router answers, it says so and how to start one."""
    ended = await cli("models", "--router", "127.0.0.1:1")

    assert ended.code == 1
    assert ended.err.startswith("no router answers at 127.0.0.1:1; start one with `first serve`")
