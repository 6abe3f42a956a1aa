"""What goes wrong comes back as what it was, and touches nobody else."""

from __future__ import annotations

import asyncio
import json

import pytest
from cloud import Fault

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    LimitExceededError,
    OverloadedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.testing.simulator import ErrorStatus, Garbage, StallBeforeHead
from first_core.types import EndpointState

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_refusal_of_the_server_keeps_status_and_body(start, make_call, sim, function, status):
    """A 4xx of the server comes back as it was."""
    backend = await start(function)
    sim.faults.add(ErrorStatus(status=status, message="It's\n\nyou"))

    with pytest.raises(UpstreamRejectedError, match="you") as caught:
        await backend.call(make_call())

    assert caught.value.upstream.status == status
    assert json.loads(caught.value.upstream.body)["error"]["message"] == "It's\n\nyou"


@pytest.mark.parametrize(
    ("status", "error"),
    [(429, LimitExceededError), (503, OverloadedError), (500, BackendUnavailableError)],
)
async def test_failure_of_the_server_keeps_its_class(
    *, start, make_call, sim, function, status, error
):
    """Capacity stays capacity, and a server's fault stays one."""
    backend = await start(function)
    sim.faults.add(ErrorStatus(status=status))

    with pytest.raises(error) as caught:
        await backend.call(make_call())

    assert caught.value.metadata["http_status"] == str(status)


async def test_garbage_is_no_answer(start, make_call, sim, function):
    """What is no JSON is an error, never an answer."""
    backend = await start(function)
    sim.faults.add(Garbage(kind="invalid_json"))

    with pytest.raises(BackendUnavailableError):
        await backend.call(make_call())


async def test_server_that_is_not_there(start, make_call, function):
    """A server that does not listen is told as that."""
    backend = await start(function, cluster={"api_port": 9})

    with pytest.raises(BackendUnavailableError):
        await backend.call(make_call())


@pytest.mark.parametrize("key", ["api_port", "openai_endpoint", "stream_task_token"])
async def test_reserved_keys_are_refused(start, make_call, cloud, key):
    """A body cannot steer the function: nothing is submitted."""
    backend = await start()

    with pytest.raises(InvalidRequestError, match=key):
        await backend.call(make_call(b'{"model": "m", "%s": 1}' % key.encode()))
    assert not cloud.submits


async def test_slow_call_touches_no_other(start, make_call, sim):
    """A call that runs into its deadline ends alone; others go on."""
    backend = await start()
    sim.faults.add(StallBeforeHead())
    slow = asyncio.create_task(backend.call(make_call(first_chunk_s=2.0)))
    await sim.wait_received(1)

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]
    with pytest.raises(BackendTimeoutError):
        await slow


async def test_cancelled_call_touches_no_other(start, make_call, sim):
    """A call that is given up leaves the others their results."""
    backend = await start()
    sim.faults.add(StallBeforeHead())
    left = asyncio.create_task(backend.call(make_call()))
    await sim.wait_received(1)

    left.cancel()
    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]


async def test_result_above_the_limit_names_it(start, make_call, cloud):
    """A result that agents refuse to pass on is told with the limit and the way out."""
    large = cloud.add_function("large", "def large(parameters):\n    return 'x' * 11_000_000\n")
    backend = await start(large)

    with pytest.raises(UnsupportedError, match=r"10 MiB .* relay"):
        await backend.call(make_call())


async def test_request_above_the_limit_is_the_callers(start, make_call, cloud):
    """A request that no task can carry is refused before it is submitted."""
    backend = await start(max_request_bytes=8192)

    with pytest.raises(InvalidRequestError, match="relay"):
        await backend.call(make_call(b'{"model": "m", "prompt": "%s"}' % (b"x" * 9000)))
    assert not cloud.submits


async def test_function_that_nobody_registered(start, make_call):
    """An unknown function is the operator's fault, and started nothing."""
    backend = await start(UNKNOWN)

    with pytest.raises(BackendUnavailableError, match="function") as caught:
        await backend.call(make_call())
    assert not caught.value.work_started


async def test_endpoint_that_nobody_registered(start, make_call, published):
    """An unknown endpoint is down, with the reason."""
    await start(cluster={"endpoint_uuid": UNKNOWN})

    assert published.reports[0].state is EndpointState.DOWN


async def test_function_that_raises_anything(start, make_call, cloud):
    """A function's own failure shows nothing of its text."""
    source = "def bad(parameters):\n    raise ValueError('hidden detail')\n"
    backend = await start(cloud.add_function("bad", source))

    with pytest.raises(BackendUnavailableError) as caught:
        await backend.call(make_call())
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("status", [500, 502, 503])
async def test_failing_service_is_not_asked_twice(start, make_call, cloud, status):
    """A submit that failed may have started the task, so it is never repeated."""
    backend = await start()
    before = cloud.counts.get("submit", 0)
    cloud.faults["submit"] = Fault(status=status, count=5)

    with pytest.raises(BackendUnavailableError) as caught:
        await backend.call(make_call())

    assert caught.value.work_started
    assert cloud.counts["submit"] == before + 1


async def test_lost_answer_runs_the_task_once(start, make_call, cloud, sim):
    """A connection cut after the submit was processed does not run the call twice."""
    backend = await start()
    cloud.faults["submit"] = Fault(process_first=True)

    with pytest.raises(BackendUnavailableError) as caught:
        await backend.call(make_call())

    await sim.wait_received(1)
    await sim.wait_idle()
    assert caught.value.work_started
    assert sim.received_count == 1


async def test_limit_of_the_service_is_told_with_its_wait(start, make_call, cloud):
    """A 429 of the service keeps its `Retry-After`."""
    backend = await start()
    cloud.faults["submit"] = Fault(status=429, headers={"Retry-After": "7"})

    with pytest.raises(LimitExceededError) as caught:
        await backend.call(make_call())
    assert caught.value.retry_after_s == 7.0


async def test_expired_token_is_renewed(start, make_call, cloud):
    """An access token that the service forgot is replaced, and the call goes through."""
    backend = await start()
    await backend.call(make_call())
    cloud.tokens.clear()

    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]


async def test_wrong_credential_is_told_as_that(start, make_call, cloud, monkeypatch, published):
    """A credential that Globus Auth refuses leaves the endpoint down, with the reason."""
    monkeypatch.setattr(cloud, "client_secret", "another")
    monkeypatch.setenv("WRONG_SECRET", "not-the-secret")
    await start(client_secret={"env": "WRONG_SECRET"})

    assert published.reports[0].state is EndpointState.DOWN
    assert "credential" in published.reports[0].state_reason


async def test_offline_endpoint(start, make_call, cloud, agent, published):
    """A submit to an endpoint that is offline fails, and shows it as down soon after."""
    backend = await start()
    cloud.offline.add(agent.id)

    with pytest.raises(BackendUnavailableError, match="offline"):
        await backend.call(make_call())
    await published.wait(lambda reports: reports[0].state is EndpointState.DOWN)


async def test_allow_list_of_the_service(start, make_call, cloud, agent, monkeypatch):
    """A function that the endpoint does not allow is told as that."""
    backend = await start()
    monkeypatch.setattr(cloud.agents[agent.id], "allowed", [])

    with pytest.raises(BackendUnavailableError, match="function") as caught:
        await backend.call(make_call())
    assert not caught.value.work_started


HOSTILE = [
    pytest.param("st\nrun:import os\nos._exit(1)\n", id="source"),
    pytest.param("01\ngASVBQAAAAAAAABLAS4=\n", id="pickle"),
    pytest.param("11\n{", id="cut"),
    pytest.param("", id="empty"),
]


@pytest.mark.parametrize("data", HOSTILE)
async def test_results_are_never_run(start, make_call, cloud, sim, data):
    """A result in any form but JSON text is an error; nothing in it is run or unpickled."""
    backend = await start()
    sim.faults.add(StallBeforeHead())
    calling = asyncio.create_task(backend.call(make_call()))
    await sim.wait_received(1)
    task_id, task = next(reversed(cloud.tasks.items()))
    message = {"message_type": "result", "data": {"task_id": task_id, "data": data}}

    await asyncio.to_thread(
        cloud.publish_result, task["group"], b"\x01" + json.dumps(message).encode()
    )

    with pytest.raises(BackendUnavailableError):
        await calling


async def test_strange_messages_are_dropped(start, make_call, cloud):
    """Messages that are no results, and results of unknown tasks, harm nothing."""
    backend = await start()
    await backend.call(make_call())
    group = next(reversed(cloud.tasks.values()))["group"]
    unknown = {"message_type": "result", "data": {"task_id": UNKNOWN, "data": '11\n"late"'}}

    for body in (b"", b"\x01", b"\x80\x04.", b"\x01[1]", b"\x01" + json.dumps(unknown).encode()):
        await asyncio.to_thread(cloud.publish_result, group, body)
    answer = await backend.call(make_call())

    assert json.loads(answer.body)["choices"]
