"""Plain calls, end to end."""

from __future__ import annotations

import asyncio
import json

import pytest

from first_core.errors import UpstreamRejectedError
from first_globus import functions
from first_globus.service import ComputeService
from first_globus.settings import GlobusSettings


async def test_call_comes_back_with_the_servers_answer(start, make_call, sim, function):
    """A call goes through service, broker, agent and function to the server, and back."""
    backend = await start(function)

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"][0]["finish_reason"] == "stop"
    assert answer.content_type == "application/json"
    assert sim.received[-1][1] == "/v1/chat/completions"


async def test_parallel_calls_never_mix(start, make_call, sim, function):
    """Each of many calls at once gets the answer to its own question."""
    backend = await start(function)
    bodies = [
        b'{"model": "sim-model", "max_tokens": %d, "messages": [{"role": "user", "content": "x"}]}'
        % count
        for count in range(1, 21)
    ]

    answers = await asyncio.gather(*(backend.call(make_call(body)) for body in bodies))

    found = [json.loads(answer.body)["usage"]["completion_tokens"] for answer in answers]
    assert found == list(range(1, 21))


async def test_pushed_answer_does_not_wait_for_results(start, make_call, cloud, sim):
    """With `pushes_answers` a plain answer comes without the task's result, byte for byte."""
    backend = await start(cluster={"pushes_answers": True})
    cloud.hold_results = True

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"][0]["finish_reason"] == "stop"
    await asyncio.to_thread(cloud.release_results)


async def test_pushed_refusal_keeps_its_status(start, make_call, cloud, sim):
    """A refusal comes the same way, as what it was."""
    backend = await start(cluster={"pushes_answers": True})

    with pytest.raises(UpstreamRejectedError) as caught:
        await backend.call(make_call(b'{"model": "other", "messages": []}'))
    assert caught.value.upstream.status in {400, 404}


async def test_answer_returns_where_it_cannot_be_pushed(start, make_call, sim, unused_tcp_port):
    """Where the function does not reach the listener, the answer comes as the task's result."""
    streaming = {
        "listen": f"127.0.0.1:{unused_tcp_port}",
        "public_url": "http://127.0.0.1:9",
        "secret": {"env": "TEST_STREAM_SECRET"},
    }
    backend = await start(cluster={"pushes_answers": True}, streaming=streaming)

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]


async def test_registered_source_runs(start, make_call, cloud, sim, monkeypatch):
    """What is registered through the service runs as it was written."""
    monkeypatch.setenv("TEST_GLOBUS_SECRET", cloud.client_secret)
    settings = GlobusSettings(
        client_id=cloud.client_id,
        client_secret={"env": "TEST_GLOBUS_SECRET"},
        service_url=cloud.url,
        auth_url=cloud.url,
    )
    service = ComputeService(settings)
    function = await service.register("first_inference", functions.source("inference"))
    service.stop()
    backend = await start(function)

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]


async def test_arguments_are_what_sites_have_registered_for(start, make_call, cloud, server):
    """The payload of a task is today's, key by key."""
    source = (
        "import json\n"
        "def echo(parameters):\n"
        "    return json.dumps({'choices': [], 'seen': parameters})\n"
    )
    backend = await start(cloud.add_function("echo", source))

    answer = await backend.call(make_call(b'{"model": "m", "x": 1.50, "y": [null]}'))

    assert json.loads(answer.body)["seen"] == {
        "model_params": {
            "model": "m",
            "x": 1.5,
            "y": [None],
            "openai_endpoint": "chat/completions",
            "api_port": server.port,
        }
    }
