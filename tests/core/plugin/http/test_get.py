"""Small fetches, over both carriers."""

from __future__ import annotations

import asyncio

import pytest

from first_core.errors import BackendTimeoutError, BackendUnavailableError
from first_core.testing.simulator import ErrorStatus, StallBeforeHead


@pytest.fixture
def get(upstream):
    async def fetch(path: str = "v1/models", *, timeout_s: float = 2.0, max_bytes: int = 100_000):
        return await upstream.get(
            path, headers={"authorization": "Bearer k"}, timeout_s=timeout_s, max_bytes=max_bytes
        )

    return fetch


async def test_get_returns_status_headers_and_body(get, sim):
    """The response is told as it is, names of headers in lower case."""
    response = await get()

    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert b"sim-model" in response.body


async def test_get_sends_no_body(get, sim):
    """A GET has neither body nor type, and shows the backend's headers."""
    await get()

    method, target, headers, body = sim.received[-1]
    assert (method, target, body) == ("GET", "/v1/models", b"")
    assert headers["authorization"] == "Bearer k"
    assert not {"content-length", "content-type", "transfer-encoding"} & headers.keys()


@pytest.mark.parametrize("status", [401, 404, 500])
async def test_get_takes_any_status_for_a_response(get, sim, status):
    """What a status means is the asker's to judge."""
    sim.faults.add(ErrorStatus(status=status), path="/v1/models")

    response = await get()

    assert response.status == status


async def test_get_ends_at_its_bound(get, sim, clock):
    """The timeout bounds the whole of it."""
    sim.faults.add(StallBeforeHead(), path="/health")
    task = asyncio.create_task(get("health", timeout_s=3.0))
    await sim.wait_received(1)

    clock.advance(4.0)

    with pytest.raises(BackendTimeoutError):
        await task


async def test_get_bounds_the_body(get):
    """A body that is too large is no response."""
    with pytest.raises(BackendUnavailableError):
        await get(max_bytes=10)


async def test_get_maps_a_refused_connection(get, sim):
    """Nobody there: the error says that nothing was started."""
    await sim.pause_listening()

    with pytest.raises(BackendUnavailableError) as caught:
        await get()

    assert not caught.value.work_started
