"""What there is to call is found, and what comes and goes is noticed."""

from __future__ import annotations

import pytest

from first_core.testing.simulator import LoraAdapter, Simulator, SimulatorSettings
from first_core.types import EndpointState

NOTICED_WITHIN_S = 2.0


def is_in(state: EndpointState, model: str = "m"):
    """Return what tells whether the catalog has a model in this state."""
    return lambda routes: (found := routes.model(model)) is not None and found.state is state


async def test_adapters_are_models(gateway):
    """LoRA adapters are listed beside their model, with its window, and can be called."""
    listed = (await gateway.get("/v1/models")).json()["data"]
    answer = await gateway.chat(model="org/lora")

    assert [(model["id"], model["max_model_len"]) for model in listed] == [
        ("m", 8192),
        ("org/lora", 8192),
    ]
    assert answer.json()["model"] == "org/lora"


async def test_a_server_that_goes_and_comes_is_noticed(gateway, sim):
    """Within two seconds a server that is away is down, and one that is back takes calls."""
    await sim.pause_listening()
    await gateway.wait_catalog(is_in(EndpointState.DOWN), bound_s=NOTICED_WITHIN_S)
    away = await gateway.chat()
    ready = await gateway.get("/ready")
    await sim.resume_listening()
    await gateway.wait_catalog(is_in(EndpointState.READY), bound_s=NOTICED_WITHIN_S)
    back = await gateway.chat()

    assert (away.status, back.status) == (503, 200)
    assert int(away.headers["retry-after"]) > 0
    assert ready.status == 503


async def test_a_failed_call_makes_it_look_at_once(open_gateway, sim):
    """A refused call tells more than the next look would, and sooner."""
    server = {"url": sim.url, "probe_interval_s": 3600}
    async with open_gateway(vllm={"servers": [server]}) as gateway:
        await sim.pause_listening()
        first = await gateway.chat()
        await gateway.wait_catalog(is_in(EndpointState.DOWN), bound_s=NOTICED_WITHIN_S)

    assert first.status == 503


async def test_a_server_that_starts_late_is_found(open_gateway, sim):
    """A gateway starts before its servers, says that nothing is there, and finds them."""
    port = sim.port
    await sim.stop()
    sim.port = port
    server = {"url": f"http://127.0.0.1:{port}", "probe_interval_s": 0.3}
    async with open_gateway(vllm={"servers": [server]}) as gateway:
        before = await gateway.chat()
        await sim.start(port=port)
        await gateway.wait_catalog(is_in(EndpointState.READY), bound_s=NOTICED_WITHIN_S)
        after = await gateway.chat()

    assert (before.status, after.status) == (404, 200)


async def test_an_adapter_loaded_later_is_found(open_gateway):
    """The list of models is read again while the server is up."""
    adapter = LoraAdapter(name="new", parent="m")
    async with Simulator(SimulatorSettings(models=("m",))) as sim:
        server = {"url": sim.url, "probe_interval_s": 0.1}
        async with open_gateway(vllm={"servers": [server]}) as gateway:
            sim.settings = SimulatorSettings(models=("m",), lora_adapters=(adapter,))
            await gateway.wait_catalog(is_in(EndpointState.READY, "new"), bound_s=NOTICED_WITHIN_S)


async def test_the_environment_names_a_server(open_gateway, sim, monkeypatch):
    """`LOCAL_VLLM_URL` stands for a server where the settings name none."""
    monkeypatch.setenv("LOCAL_VLLM_URL", f"{sim.url}/v1")
    async with open_gateway(vllm={}) as gateway:
        answer = await gateway.chat()

    assert answer.headers["x-first-endpoint"] == "local/vllm/m"


async def test_a_providers_models_are_discovered(open_gateway, sim):
    """A provider can be asked for its models instead of being told them."""
    provider = {"name": "p", "base_url": f"{sim.url}/v1", "discover": True}
    async with open_gateway(direct={"providers": [provider]}) as gateway:
        await gateway.wait_catalog(is_in(EndpointState.READY), bound_s=NOTICED_WITHIN_S)
        answer = await gateway.chat()

    assert answer.headers["x-first-endpoint"] == "p/api/m"


@pytest.mark.parametrize("model", ["m", "org/lora"])
async def test_a_model_is_told_by_its_id(gateway, model):
    """Ids with slashes are paths of their own, encoded or not."""
    plain = await gateway.get(f"/v1/models/{model}")
    encoded = await gateway.get(f"/v1/models/{model.replace('/', '%2F')}")

    assert plain.json() == encoded.json()
    assert plain.json()["id"] == model


async def test_calls_go_on_while_one_of_two_servers_is_away(open_gateway, sim, other_sim):
    """With another endpoint of the model no client hears of a server that went."""
    async with open_gateway(sim, other_sim) as gateway:
        await sim.pause_listening()
        answers = [await gateway.chat(stream=n % 2 == 0) for n in range(6)]

    assert [answer.status for answer in answers] == [200] * 6
    assert answers[-1].headers["x-first-endpoint"] == "b/vllm/m"
