"""Where a call would go, as the router tells it over each carrier."""

from __future__ import annotations

import pytest

from first_core.client import RouterClient
from first_core.errors import BackendUnavailableError, NotFoundError
from first_core.plugin import Answer
from first_core.settings import ModelSettings, RoutingSettings
from first_core.testing.scripted import ScriptedBackend, ready
from first_core.types import EndpointState, Operation
from first_proto.v1 import catalog_pb2, common_pb2, inference_pb2

BODY = b'{"model":"m","messages":[]}'


@pytest.fixture
def explain(open_router):
    """Open a router over two clusters and ask where a call would go."""

    async def ask(*reports, settings=None, before=None, **wish):
        backend = ScriptedBackend(*(reports or (ready(), ready(cluster="d"))), on_call=refuse)
        async with open_router(settings=settings, kind=backend) as channel:
            client = RouterClient(channel)
            if before is not None:
                await before(client)
            return await client.explain_route(
                catalog_pb2.ExplainRouteRequest(**{"model": "m", **wish})
            )

    return ask


async def refuse(call):
    if call.endpoint.cluster == "c":
        raise BackendUnavailableError("down", work_started=False)
    return Answer(b"{}", "application/json")


def reasons(found):
    return {c.endpoint.ref.cluster: c.reason for c in found.candidates}


def chosen(found):
    return [c.endpoint.ref.cluster for c in found.candidates if c.chosen]


async def test_explain_names_the_choice(explain):
    """One candidate is chosen, and the others say what they are."""
    found = await explain()

    assert (found.model, found.policy) == ("m", "first")
    assert reasons(found) == {"c": "chosen by the policy", "d": "takes calls"}
    assert found.outcome == "the first attempt goes to c/f/m"


async def test_explain_tells_the_policy_note(explain):
    """What the policy says of each candidate is told."""
    found = await explain()

    assert found.candidates[0].policy_note == "running, 0 outstanding"


async def test_explain_changes_nothing(explain):
    """A policy that takes turns gives the same answer again."""
    answers = []

    async def before(client):
        for _ in range(3):
            request = catalog_pb2.ExplainRouteRequest(model="m")
            answers.append(chosen(await client.explain_route(request)))

    await explain(before=before, settings={"routing": RoutingSettings(policy="round_robin")})

    assert answers == [["c"]] * 3


async def test_explain_follows_pins_and_operations(explain):
    """What the call may never use says why."""
    found = await explain(
        ready(),
        ready(cluster="d"),
        ready(cluster="e", operations=frozenset({Operation.EMBEDDING})),
        operation=common_pb2.OPERATION_CHAT,
    )
    pinned = await explain(cluster="d")

    assert reasons(found)["e"] == "does not offer chat"
    assert reasons(pinned)["c"] == "not where the call is pinned to"
    assert chosen(pinned) == ["d"]


async def test_explain_tells_of_an_open_breaker(explain):
    """An endpoint whose calls failed is spared, and for how long is told."""

    async def before(client):
        for _ in range(3):
            call = inference_pb2.CallRequest(operation=common_pb2.OPERATION_CHAT, body=BODY)
            await client.call(call)

    found = await explain(before=before)

    assert chosen(found) == ["d"]
    assert found.candidates[0].breaker_open
    assert found.candidates[0].HasField("spared_time")
    assert reasons(found)["c"].startswith("its last calls failed; asked again in ")


async def test_explain_tells_that_a_call_would_wait(explain):
    """Where nothing is ready, the outcome says so."""
    found = await explain(ready(state=EndpointState.COLD))

    assert reasons(found) == {"c": "is cold"}
    assert found.outcome.startswith("waits until an endpoint is ready")


async def test_explain_resolves_aliases_and_fallbacks(explain):
    """An alias is answered with the model's own name, and fallbacks are told."""
    model = ModelSettings(name="m", aliases=["nick"], fallbacks=["small"])
    found = await explain(settings={"routing": RoutingSettings(models=[model])}, model="nick")

    assert found.model == "m"
    assert list(found.fallbacks) == ["small"]


async def test_explain_knows_no_such_model(explain):
    """A model that nobody serves is not found."""
    with pytest.raises(NotFoundError):
        await explain(model="nobody")
