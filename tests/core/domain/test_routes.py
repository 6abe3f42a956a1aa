"""From names to endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from first_core.errors import NotFoundError, SettingsError
from first_core.settings import ModelSettings, RoutingSettings, TargetSettings
from first_core.types import EndpointId, EndpointState, Pin


def routing(*models: ModelSettings, **fields: Any) -> dict[str, Any]:
    return {"routing": RoutingSettings(models=list(models), **fields)}


def clusters(route: Any) -> list[str]:
    return [t.report.id.cluster for t in route.targets]


def test_unconfigured_models_are_routed_over_all_that_have_the_name(world: Any) -> None:
    """Endpoints with one model's name serve it together, in the order in which they came."""
    w = world()
    w.add("b")
    w.add("a")
    w.add("x", model="other")

    assert clusters(w.routes.resolve("m")) == ["b", "a"]
    assert w.routes.resolve("nobody") is None


def test_an_alias_is_the_model(world: Any) -> None:
    """Aliases share targets, policy and its state, and answer under the model's name."""
    w = world(**routing(ModelSettings(name="m", aliases=["gpt"])))
    w.add("a")
    route = w.routes.resolve("gpt")

    assert route.model == "m"
    assert route.policy is w.routes.resolve("m").policy


async def test_an_alias_reaches_the_upstream_as_its_own_name(world: Any) -> None:
    """The body carries the endpoint's own name of the model."""
    w = world(**routing(ModelSettings(name="m", aliases=["gpt"])))
    a = w.add("a", served_model="org/m")
    await w.call(b'{"model":"gpt"}')

    assert a.calls[0].body == b'{"model":"org/m"}'


def test_targets_have_order_and_weight(world: Any) -> None:
    """Configured targets come in their order with their weights; the first match of two counts."""
    targets = [
        TargetSettings(cluster="b", model="m-b", weight=3.0),
        TargetSettings(cluster="a"),
        TargetSettings(weight=9.0),
    ]
    w = world(**routing(ModelSettings(name="m", targets=targets)))
    w.add("a")
    w.add("b", model="m-b")
    w.add("c")
    route = w.routes.resolve("m")

    assert clusters(route) == ["b", "a", "c"]
    assert [t.weight for t in route.targets] == [3.0, 1.0, 9.0]
    assert [t.order for t in route.targets] == [0, 1, 2]


def test_routes_follow_the_catalog(world: Any) -> None:
    """Endpoints that come and go do so in the next look-up; policies keep their state."""
    w = world()
    w.add("a")
    policy = w.routes.resolve("m").policy
    w.add("b")
    assert clusters(w.routes.resolve("m")) == ["a", "b"]
    w.remove("a")

    assert clusters(w.routes.resolve("m")) == ["b"]
    assert w.routes.resolve("m").policy is policy


@pytest.mark.parametrize(
    "pin", [Pin(cluster="b"), Pin(framework="sglang"), Pin(replica="r2")], ids=str
)
async def test_pins_hold(world: Any, pin: Pin) -> None:
    """A pin by cluster, framework or replica leaves only what fits."""
    w = world()
    w.add("a", id=EndpointId("a", "vllm", "m", "r1"))
    w.add("b", id=EndpointId("b", "sglang", "m", "r2"))

    for _ in range(3):
        assert (await w.call(pin=pin)).head.endpoint.cluster == "b"


async def test_a_pin_that_fits_nothing_is_not_found(world: Any) -> None:
    """The error names the place, not the state."""
    w = world()
    w.add("a")
    with pytest.raises(NotFoundError, match="elsewhere"):
        await w.call(pin=Pin(cluster="elsewhere"))


def test_a_name_stands_once(world: Any) -> None:
    """A model may not take another one's name or alias."""
    with pytest.raises(SettingsError, match="'x' is taken twice"):
        world(**routing(ModelSettings(name="m", aliases=["x"]), ModelSettings(name="x")))


@pytest.mark.parametrize(
    "settings",
    [routing(policy="frist"), routing(ModelSettings(name="m", policy="frist"))],
    ids=["default", "model"],
)
def test_an_unknown_policy_is_told_with_those_there_are(
    world: Any, settings: dict[str, Any]
) -> None:
    """The error lists what can be had."""
    with pytest.raises(SettingsError, match=r"'frist'.*affinity, first, latency, least_loaded"):
        world(**settings)


def test_a_model_has_its_own_policy(world: Any) -> None:
    """The model's policy wins over the default one; each model has an object of its own."""
    w = world(**routing(ModelSettings(name="m", policy="weighted"), policy="latency"))
    w.add("a")
    w.add("b", model="n")

    assert w.routes.resolve("m").policy_name == "weighted"
    assert w.routes.resolve("n").policy_name == "latency"


def test_unknown_names_fill_no_memory(world: Any) -> None:
    """What callers make up is not kept."""
    w = world()
    for number in range(100):
        w.routes.resolve(f"made-up-{number}")

    assert not w.routes._cache


def test_a_model_is_as_ready_as_its_best_endpoint(world: Any) -> None:
    """The sum over endpoints shows the best state and the largest window."""
    w = world()
    w.add("a", state=EndpointState.DOWN, context_window_token_count=10)
    w.add("b", state=EndpointState.STARTING, context_window_token_count=5)
    model = w.routes.model("m")

    assert model.state is EndpointState.STARTING
    assert model.context_window_token_count == 10
