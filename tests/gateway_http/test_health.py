from __future__ import annotations

import pytest

from first_core.errors import BackendUnavailableError
from first_core.types import EndpointState
from first_proto.v1.catalog_pb2 import Endpoint
from first_proto.v1.common_pb2 import EndpointRef


async def test_health_is_open_and_cheap(http, router):
    """Health says that the process lives, and asks nobody."""
    async with http.get("/health") as answer:
        document = await answer.json()

    assert (answer.status, document) == (200, {"status": "ok"})
    assert router.metadata == []


async def test_health_answers_head(http):
    """Balancers ask with HEAD."""
    async with http.head("/health") as answer:
        status = answer.status

    assert status == 200


@pytest.mark.parametrize(
    ("states", "status", "word"),
    [
        ([EndpointState.READY, EndpointState.DOWN], 200, "ready"),
        ([EndpointState.STARTING], 503, "no endpoint is ready"),
        ([], 503, "no endpoint is known"),
    ],
)
async def test_ready_tells_what_is_missing(http, router, states, status, word):
    """Ready means that a call could succeed; if not, the answer says why."""
    router.endpoints = [Endpoint(state=state) for state in states]
    async with http.get("/ready") as answer:
        text = await answer.text()

    assert answer.status == status
    assert word in text


async def test_ready_counts_states(http, router):
    """The answer tells how many endpoints are in which state."""
    router.endpoints = [Endpoint(state=s) for s in (EndpointState.READY, EndpointState.DOWN, 0)]
    async with http.get("/ready") as answer:
        document = await answer.json()

    assert document["endpoints"] == {"down": 1, "ready": 1, "unknown": 1}


async def test_metrics_are_those_of_the_process(http, telemetry):
    """Prometheus reads what the process counts."""
    async with http.get("/metrics") as answer:
        body = await answer.read()

    assert body.splitlines()[0].startswith(b"# HELP")
    assert answer.headers["content-type"] == telemetry.metrics.render()[1]


async def test_root_tells_programs_where_the_api_is(http):
    """A program that finds the address learns the base URLs."""
    async with http.get("/") as answer:
        document = await answer.json()

    assert document["openai_base_url"] == "/v1"


async def test_root_shows_people_a_page(http):
    """A browser gets a page."""
    async with http.get("/", headers={"accept": "text/html,*/*"}) as answer:
        page = await answer.text()

    assert answer.content_type == "text/html"
    assert "FIRST gateway" in page


async def test_ready_without_router_says_so(http, router):
    """A front whose router is away is not ready, and says why."""
    router.error = BackendUnavailableError("away")
    async with http.get("/ready") as answer:
        document = await answer.json()

    assert answer.status == 503
    assert document["missing"] == "the router does not answer"


async def test_ready_names_what_is_away(http, router):
    """Whoever looks learns which endpoints are not ready, ready or not as a whole."""
    ref = EndpointRef(cluster="north", framework="vllm", model="m")
    router.endpoints = [
        Endpoint(state=EndpointState.READY),
        Endpoint(ref=ref, state=EndpointState.STARTING),
    ]
    async with http.get("/ready") as answer:
        document = await answer.json()

    assert document["status"] == "ready"
    assert document["away"] == ["north/vllm/m is starting"]
