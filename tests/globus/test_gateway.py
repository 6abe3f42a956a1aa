"""A whole gateway over HTTP, with clusters behind Globus Compute."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest
import yaml

from first_core.app import Process, load_host, read_settings
from first_core.testing.simulator import CutAfterEvents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEAD = "00000000-0000-4000-8000-00000000dead"


@pytest.fixture
def open_gateway(*, cloud, agent, server, function_ids, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_GLOBUS_SECRET", cloud.client_secret)
    monkeypatch.setenv("TEST_STREAM_SECRET", "stand-in-stream-secret")

    @asynccontextmanager
    async def opener(function: str, *others: dict) -> AsyncIterator[str]:
        live = {
            "name": "polaris",
            "endpoint_uuid": agent.id,
            "function_uuid": function_ids[function],
            "api_port": server.port,
            "models": ["sim-model"],
        }
        settings = {
            "http": {"listen": "127.0.0.1:0", "drain_s": 1},
            "grpc": {"listen": None},
            "log": {"level": "error"},
            "resilience": {"continuation": False, "max_attempts": 2},
            "globus": {
                "client_id": cloud.client_id,
                "client_secret": {"env": "TEST_GLOBUS_SECRET"},
                "service_url": cloud.url,
                "auth_url": cloud.url,
                "rate": {"requests": 10_000, "file": str(tmp_path / "rate")},
                "streaming": {"secret": {"env": "TEST_STREAM_SECRET"}},
                "clusters": [*({**live, **other} for other in others), live],
            },
        }
        path = tmp_path / "first.yaml"
        path.write_text(yaml.safe_dump(settings))
        host = load_host(path)
        process = Process(read_settings(path, host), host)
        addresses = await process.start()
        try:
            yield next(address for address in addresses if address.startswith("http://"))
        finally:
            await process.stop()

    return opener


async def chat(url: str, **fields) -> tuple[int, bytes]:
    messages = [{"role": "user", "content": "Hi"}]
    body = {"model": "sim-model", "messages": messages, **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url.rstrip('/')}/v1/chat/completions", json=body) as answer,
    ):
        return answer.status, await answer.read()


async def test_answer_over_http(open_gateway, sim, function):
    """A client of the gateway gets its answer from the cluster."""
    async with open_gateway(function) as url:
        status, body = await chat(url)

    assert status == 200
    assert json.loads(body)["choices"][0]["finish_reason"] == "stop"


async def test_stream_over_http_ends_with_its_mark(open_gateway, sim, function):
    """A stream ends with `[DONE]`, also where the function drops it."""
    async with open_gateway(function) as url:
        status, body = await chat(url, stream=True)

    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")


async def test_refusal_over_http(open_gateway, sim, function):
    """A refusal of the server reaches the client as it was."""
    async with open_gateway(function) as url:
        status, body = await chat(url, max_tokens=-1)

    assert status == 400
    assert b"max_tokens" in body


async def test_broken_stream_has_no_mark(open_gateway, sim):
    """A stream that breaks ends in an error event, and without `[DONE]`."""
    async with open_gateway("first_inference") as url:
        sim.faults.add(CutAfterEvents(count=5))
        status, body = await chat(url, stream=True)

    assert status == 200
    assert b"[DONE]" not in body
    assert b'"error"' in body


async def test_call_goes_on_at_the_live_endpoint(open_gateway, sim):
    """Of two endpoints one serves a port where nothing listens: the other one answers."""
    async with open_gateway("first_inference", {"name": "aurora", "api_port": 9}) as url:
        answers = [await chat(url) for _ in range(3)]

    assert [status for status, _ in answers] == [200, 200, 200]


async def test_endpoint_that_is_gone_is_passed_over(open_gateway, sim):
    """An endpoint that the service does not know is down, and gets no calls."""
    async with open_gateway("first_inference", {"name": "aurora", "endpoint_uuid": DEAD}) as url:
        status, _ = await chat(url)

    assert status == 200
