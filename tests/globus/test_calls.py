"""Plain calls, end to end."""

from __future__ import annotations

import asyncio
import json


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
