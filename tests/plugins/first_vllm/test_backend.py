from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING

import pytest

from first_core.clock import SystemClock
from first_core.errors import BackendUnavailableError
from first_core.plugin import BackendContext
from first_core.testing.simulator import (
    ErrorStatus,
    Raw,
    Simulator,
    SimulatorSettings,
    StallBeforeHead,
)
from first_core.types import EndpointLoad, EndpointState, Operation
from first_vllm.backend import MAX_SILENT_PROBES, QUIET_S, VllmBackend
from first_vllm.settings import VllmSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "hidden-key-0123456789"


def is_down(models) -> bool:
    return bool(models) and all(m.state is EndpointState.DOWN for m in models.values())


def is_ready(models) -> bool:
    return bool(models) and all(m.state is EndpointState.READY for m in models.values())


def api_document(*paths: str) -> Raw:
    body = json.dumps({"paths": {path: {} for path in paths}}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    return Raw(script=(head + body,), end="keep")


@pytest.fixture
async def real_time(published, sim) -> AsyncIterator[None]:
    """Follow the simulator by the machine's clock, at a quick pace."""
    settings = VllmSettings(servers=[{"url": sim.url, "probe_interval_s": 0.01}])
    backend = VllmBackend(settings, BackendContext(SystemClock(), None))
    await backend.start(published)
    yield
    await backend.stop()


async def test_server_is_known_when_start_returns(start, published):
    """The first look of a server nearby is over before the first call can come."""
    await start()

    report = published.models["llama"]
    assert str(report.id) == "local/vllm/llama"
    assert (report.served_model, report.state) == ("llama", EndpointState.READY)
    assert report.context_window_token_count == 8192
    assert report.owner == "vllm"


async def test_adapters_are_endpoints_of_their_own(start, published):
    """A LoRA adapter is a model that clients can ask for."""
    await start()

    assert set(published.models) == {"llama", "tuned"}


async def test_load_is_told(start, published):
    """Figures of the engine stand in the report."""
    await start()

    assert published.models["llama"].load == EndpointLoad(0, 0, 0.0)


async def test_server_that_was_never_seen_publishes_nothing(start, published, sim):
    """An address where nobody listens is no endpoint, and delays no start."""
    await sim.pause_listening()

    await start()

    assert published.all == []


async def test_server_that_does_not_answer_does_not_hold_the_start(start, sim, clock):
    """Start returns though the first look still waits."""
    sim.faults.add(StallBeforeHead(), times=None, path="/health")
    starting = asyncio.create_task(start())
    await sim.wait_received(1)

    clock.advance(0.5)

    await starting


async def test_server_that_comes_is_noticed_at_the_next_look(start, published, sim, clock):
    """A server may be started after the gateway; looks are a second apart at most."""
    await sim.pause_listening()
    await start()
    await sim.resume_listening()

    clock.advance(1.0)

    await published.wait(is_ready)


async def test_server_that_goes_is_down_at_the_next_look(start, published, sim, clock):
    """A refused connection says enough; the models stay known, with a reason."""
    await start()
    await sim.pause_listening()

    clock.advance(1.0)
    await published.wait(is_down)

    report = published.models["llama"]
    assert report.state_reason == "cannot be reached"
    assert report.load is None


async def test_server_that_comes_back_is_ready_again(start, published, sim, clock):
    """Down is not for good."""
    await start()
    await sim.pause_listening()
    clock.advance(1.0)
    await published.wait(is_down)
    await sim.resume_listening()

    clock.advance(1.0)

    await published.wait(is_ready)


async def test_failed_call_makes_it_look_at_once(start, published, sim, *, clock, make_call):
    """A call that meets a closed port finds out before the next look is due."""
    backend = await start()
    await sim.pause_listening()

    with pytest.raises(BackendUnavailableError):
        await backend.call(make_call())
    clock.advance(QUIET_S)

    await published.wait(is_down)


async def test_failed_calls_cause_one_look(start, sim, clock, make_call):
    """Many calls that fail at once do not become a storm of looks."""
    backend = await start()
    sim.faults.add(ErrorStatus(status=500), times=None)
    looks = sum(path == "/health" for _, path, _, _ in sim.received)

    for _ in range(5):
        with pytest.raises(BackendUnavailableError):
            await backend.call(make_call())
    clock.advance(QUIET_S)
    await sim.wait_received(sim.received_count + 2)  # health, metrics
    await backend.call(make_call(Operation.TOKENIZE))

    assert sum(path == "/health" for _, path, _, _ in sim.received) == looks + 1


async def test_dead_engine_is_down(start, published, sim, clock):
    """`/health` tells that the engine died though the server answers."""
    await start()
    sim.faults.add(ErrorStatus(status=503), times=None, path="/health")

    clock.advance(1.0)
    await published.wait(is_down)

    assert published.models["llama"].state_reason == "health check failed (HTTP 503)"


async def test_slow_answer_is_not_down(start, published, sim, clock):
    """One look without an answer says nothing; several in a row do."""
    await start()
    sim.faults.add(StallBeforeHead(), times=None, path="/health")
    before = sim.received_count

    while not is_down(published.models):
        clock.advance(0.1)
        await asyncio.sleep(0)

    assert published.models["llama"].state_reason == "does not answer"
    assert sim.received_count == before + MAX_SILENT_PROBES


async def test_server_without_health_route_is_judged_by_its_models(start, published, sim):
    """Other engines that speak the same routes may lack it."""
    sim.faults.add(ErrorStatus(status=404), times=None, path="/health")

    await start()

    assert is_ready(published.models)


async def test_list_of_models_is_read_again(real_time, published, sim):
    """An adapter that is loaded later appears."""
    body = b'{"data": [{"id": "llama"}, {"id": "late"}]}'
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    sim.faults.add(Raw(script=(head + body,), end="keep"), times=None, path="/v1/models")

    await published.wait(lambda models: set(models) == {"llama", "late"})


async def test_operations_are_those_of_the_api_document(start, published, sim):
    """What the server has no route for is not offered."""
    sim.faults.add(api_document("/v1/embeddings", "/tokenize"), path="/openapi.json")

    await start()

    assert published.models["llama"].operations == {Operation.EMBEDDING, Operation.TOKENIZE}


async def test_operations_are_all_where_the_server_does_not_tell(start, published, sim):
    """Without an API document nothing is withheld."""
    sim.faults.add(ErrorStatus(status=404), times=None, path="/openapi.json")

    await start()

    assert published.models["llama"].operations == set(Operation)


async def test_operations_of_the_settings_win(start, published, sim):
    """The operator knows better than the document."""
    sim.faults.add(api_document("/v1/embeddings"), path="/openapi.json")

    await start(operations=["chat"])

    assert published.models["llama"].operations == {Operation.CHAT}


async def test_metrics_that_fail_do_not_matter(start, published, sim):
    """Load is a hint; a server without it is as ready."""
    sim.faults.add(ErrorStatus(status=500), times=None, path="/metrics")

    await start()

    assert is_ready(published.models)
    assert published.models["llama"].load is None


async def test_call_goes_to_the_route_of_its_operation(start, sim, make_call):
    """Paths lie below the root of the server, whatever the URL ended with."""
    backend = await start({"url": f"{sim.url}/v1/"})

    await backend.call(make_call())

    assert sim.received[-1][:2] == ("POST", "/v1/chat/completions")


async def test_calls_go_to_the_replica_that_was_chosen(start, published, sim, make_call):
    """Servers of one cluster that serve the same model are endpoints apart."""
    async with Simulator(SimulatorSettings(models=("llama",))) as other:
        backend = await start({"url": sim.url}, {"url": other.url, "name": "second"})
        before = (sim.received_count, other.received_count)

        await backend.call(make_call(replica="second"))
        await backend.call(make_call(replica=f"127.0.0.1:{sim.port}"))

        assert (sim.received_count, other.received_count) == (before[0] + 1, before[1] + 1)
        await backend.stop()


async def test_call_to_an_endpoint_that_is_gone_starts_nothing(start, make_call):
    """A model that was unloaded between choice and call is told as such."""
    backend = await start()

    with pytest.raises(BackendUnavailableError) as caught:
        await backend.call(make_call(model="unloaded"))

    assert not caught.value.work_started


async def test_key_is_shown_to_the_server_only(start, published, make_call, monkeypatch, caplog):
    """The credential stands in no log, error or report."""
    monkeypatch.setenv("VLLM_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    settings = SimulatorSettings(models=("llama",), api_key=KEY)
    async with Simulator(settings) as server:
        backend = await start({"url": server.url, "api_key": {"env": "VLLM_KEY"}})
        await backend.call(make_call())
        shown = server.received[-1][2]["authorization"]
        server.faults.add(ErrorStatus(status=401, message=f"bad key {KEY}"))

        with pytest.raises(BackendUnavailableError) as caught:
            await backend.call(make_call())
        await backend.stop()

    assert shown == f"Bearer {KEY}"
    assert KEY not in f"{caught.value!r} {published.all} {backend!r} {caplog.text}"


async def test_server_that_refuses_the_key_is_no_endpoint(start, published, monkeypatch):
    """A wrong credential is not an empty list of models."""
    monkeypatch.setenv("VLLM_KEY", "wrong")
    async with Simulator(SimulatorSettings(api_key=KEY)) as server:
        backend = await start({"url": server.url, "api_key": {"env": "VLLM_KEY"}})
        await backend.stop()

    assert published.all == []


async def test_backend_starts_again_after_stop(start, published, make_call):
    """Stop can be repeated, and start may follow it."""
    backend = await start()
    await backend.stop()
    await backend.stop()

    await backend.start(published)

    await backend.call(make_call())
    assert len(published.all) == 2


async def test_stop_leaves_no_task(start, sim):
    """Nothing runs on after stop."""
    before = asyncio.all_tasks()
    backend = await start()

    await backend.stop()

    assert asyncio.all_tasks() == before


async def test_state_is_followed_in_real_time(real_time, published, sim):
    """With the machine's clock a server that goes and comes is followed too."""
    await sim.pause_listening()
    await published.wait(is_down)

    await sim.resume_listening()

    await published.wait(is_ready)
