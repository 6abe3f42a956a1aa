from __future__ import annotations

import asyncio
import logging

import pytest

from first_core.errors import (
    BackendUnavailableError,
    FirstError,
    LimitExceededError,
    UpstreamRejectedError,
)
from first_core.testing.simulator import ErrorStatus
from first_core.types import EndpointState, Operation
from first_direct.upstream import ANTHROPIC_VERSION, REFUSED_REST_S

OPENAI_OPERATIONS = {
    Operation.CHAT,
    Operation.COMPLETION,
    Operation.EMBEDDING,
    Operation.RESPONSE,
    Operation.TRANSCRIPTION,
}


class Sink:
    def __init__(self) -> None:
        self.data = b""

    def start(self, content_type: str) -> None:
        pass

    def write(self, data: bytes) -> bool:
        self.data += data
        return False

    async def drain(self) -> None:
        pass


def shown(sim) -> list[str]:
    """Return the credentials of the calls that came in."""
    return [
        headers.get("authorization") or headers.get("x-api-key", "")
        for method, _, headers, _ in sim.received
        if method == "POST"
    ]


async def test_configured_models_are_ready_at_once(start, published, sim):
    """Nobody is asked about a model that the settings name."""
    await start(
        models=["gpt-sim", {"name": "alias", "upstream_name": "gpt-4", "context_window": 9}]
    )

    report = published.models["alias"]
    assert str(report.id) == "acme/api/alias"
    assert (report.served_model, report.context_window_token_count) == ("gpt-4", 9)
    assert {r.state for r in published.models.values()} == {EndpointState.READY}
    assert sim.received_count == 0


@pytest.mark.parametrize(
    ("fields", "operations"),
    [
        ({}, OPENAI_OPERATIONS),
        ({"dialect": "anthropic"}, {Operation.MESSAGE, Operation.MESSAGE_TOKEN_COUNT}),
        ({"operations": ["chat", "rerank"]}, {Operation.CHAT, Operation.RERANK}),
        (
            {"models": [{"name": "gpt-sim", "operations": ["embedding"]}], "operations": ["chat"]},
            {Operation.EMBEDDING},
        ),
    ],
)
async def test_operations_follow_dialect_provider_and_model(start, published, fields, operations):
    """The closest setting wins."""
    await start(**fields)

    assert published.models["gpt-sim"].operations == operations


@pytest.mark.parametrize("streams_usage", [True, False])
async def test_streamed_usage_is_a_setting(start, published, streams_usage):
    """Some APIs refuse `stream_options`."""
    await start(streams_usage=streams_usage)

    assert published.models["gpt-sim"].streams_usage is streams_usage


async def test_call_shows_the_key_as_openai_wants_it(start, sim, make_call, keys):
    """A bearer credential, below the base URL."""
    backend = await start(api_keys=keys[:1])

    await backend.call(make_call())

    method, target, headers, _ = sim.received[-1]
    assert (method, target) == ("POST", "/v1/chat/completions")
    assert headers["authorization"] == "Bearer sk-one-0123456789"
    assert "x-api-key" not in headers


async def test_call_shows_the_key_as_anthropic_wants_it(start, sim, make_call, keys):
    """A header of its own, and a version."""
    backend = await start(api_keys=keys[:1], dialect="anthropic")

    await backend.call(make_call(Operation.MESSAGE))

    _, target, headers, _ = sim.received[-1]
    assert target == "/v1/messages"
    assert headers["x-api-key"] == "sk-one-0123456789"
    assert headers["anthropic-version"] == ANTHROPIC_VERSION
    assert "authorization" not in headers


async def test_version_of_the_client_wins(start, sim, make_call, keys):
    """A client that knows a newer version gets it."""
    backend = await start(api_keys=keys[:1], dialect="anthropic")

    await backend.call(make_call(Operation.MESSAGE, headers={"anthropic-version": "2027-01-01"}))

    assert sim.received[-1][2]["anthropic-version"] == "2027-01-01"


async def test_call_without_keys_shows_none(start, sim, make_call):
    """A local API may need no credential."""
    backend = await start()

    await backend.call(make_call())

    assert "authorization" not in sim.received[-1][2]


async def test_extra_headers_are_sent(start, sim, make_call, keys):
    """Plain values and secret ones."""
    backend = await start(extra_headers={"X-Team": "hpc", "X-Token": keys[1]})

    await backend.call(make_call())

    headers = sim.received[-1][2]
    assert (headers["x-team"], headers["x-token"]) == ("hpc", "sk-two-0123456789")


async def test_keys_take_turns(start, sim, make_call, keys):
    """The load is spread over all keys."""
    backend = await start(api_keys=keys)

    for _ in range(3):
        await backend.call(make_call())

    assert [text[10:13] for text in shown(sim)] == ["one", "two", "one"]


@pytest.mark.parametrize("status", [401, 402, 429])
async def test_refused_key_rests_and_another_one_tries(
    start, sim, make_call, *, keys, status, clock
):
    """A refusal starts nothing, so the caller does not notice; later the key is tried again."""
    backend = await start(api_keys=keys)
    sim.faults.add(ErrorStatus(status=status, headers={"retry-after": "60"}))

    for _ in range(3):
        await backend.call(make_call())
    tried = [text[10:13] for text in shown(sim)]
    clock.advance(REFUSED_REST_S)
    for _ in range(2):
        await backend.call(make_call())

    assert tried == ["one", "two", "two", "two"]
    assert "Bearer sk-one-0123456789" in shown(sim)[-2:]


async def test_stream_tries_another_key_too(start, sim, make_call, keys):
    """Before the first byte a stream is a call like any other."""
    backend = await start(api_keys=keys)
    sim.faults.add(ErrorStatus(status=429))
    sink = Sink()

    await backend.stream(make_call(stream=True), sink)

    assert len(shown(sim)) == 2
    assert sink.data


async def test_limit_of_the_only_key_is_told(start, sim, make_call, keys):
    """With nothing left to try the provider's answer goes to the caller, once."""
    backend = await start(api_keys=keys[:1])
    sim.faults.add(ErrorStatus(status=429, headers={"retry-after": "7"}))

    with pytest.raises(LimitExceededError) as caught:
        await backend.call(make_call())

    assert caught.value.retry_after_s == 7.0
    assert len(shown(sim)) == 1


async def test_all_keys_refused_is_told_after_one_try_each(start, sim, make_call, keys):
    """No key is asked twice for one call."""
    backend = await start(api_keys=keys)
    sim.faults.add(ErrorStatus(status=401), times=None)

    with pytest.raises(BackendUnavailableError):
        await backend.call(make_call())

    assert len(shown(sim)) == 2


@pytest.mark.parametrize("status", [400, 500, 503])
async def test_other_errors_use_up_no_key(start, sim, make_call, keys, status):
    """What has nothing to do with the key is told at once."""
    backend = await start(api_keys=keys)
    sim.faults.add(ErrorStatus(status=status))

    with pytest.raises(FirstError):
        await backend.call(make_call())

    assert len(shown(sim)) == 1


async def test_keys_are_in_no_log_error_or_repr(start, sim, make_call, *, keys, caplog, published):
    """A credential leaves for the provider and nowhere else."""
    caplog.set_level(logging.DEBUG)
    backend = await start(api_keys=keys, discover=True, extra_headers={"x-token": keys[1]})
    texts = []
    for status in (400, 401, 403, 429, 500, 503):
        message = "quota of sk-one-0123456789 and sk-two-0123456789"
        sim.faults.add(ErrorStatus(status=status, message=message), times=2)
        try:
            await backend.call(make_call())
        except FirstError as exc:
            texts.append(f"{exc!r} {exc.metadata} {exc.upstream}")
        sim.faults.clear()

    text = f"{texts} {caplog.text} {backend!r} {vars(backend)} {published.all}"
    assert "sk-one" not in text
    assert "sk-two" not in text


async def test_listed_models_are_offered(start, published):
    """With `discover` all models of the list are endpoints, beside the configured ones."""
    await start(discover=True, models=[{"name": "alias", "upstream_name": "other"}])

    await published.wait(lambda models: set(models) == {"alias", "gpt-sim", "other"})

    assert published.models["alias"].context_window_token_count == 8192
    assert published.models["gpt-sim"].owner == "vllm"


async def test_anthropic_list_is_asked_for_whole(start, sim, keys):
    """Its list comes in pages."""
    await start(discover=True, dialect="anthropic", api_keys=keys[:1])

    await sim.wait_received(1)

    _, target, headers, _ = sim.received[-1]
    assert target == "/v1/models?limit=1000"
    assert headers["x-api-key"] == "sk-one-0123456789"


async def test_provider_that_cannot_be_reached_is_down_where_it_is_asked(
    start, published, sim, clock
):
    """With `discover` an outage is seen, and its end too."""
    await sim.pause_listening()
    await start(discover=True)
    await published.wait(lambda models: models["gpt-sim"].state is EndpointState.DOWN)
    reason = published.models["gpt-sim"].state_reason
    await sim.resume_listening()
    await clock.wait_timers(1)

    while published.models["gpt-sim"].state is EndpointState.DOWN:
        clock.advance(0.1)
        await asyncio.sleep(0)

    assert reason == "cannot be reached"


async def test_provider_without_a_list_is_ready(start, published, sim):
    """Something answers, so the configured models may work."""
    sim.faults.add(ErrorStatus(status=404), times=None, path="/v1/models")
    await start(discover=True)

    await sim.wait_received(1)

    assert published.models["gpt-sim"].state is EndpointState.READY


async def test_rejection_is_the_providers_own(start, sim, make_call):
    """Status and body of a refusal go to the caller."""
    backend = await start()
    sim.faults.add(ErrorStatus(status=404, message="no such model"))

    with pytest.raises(UpstreamRejectedError, match="no such model"):
        await backend.call(make_call())


async def test_call_to_an_unknown_endpoint_starts_nothing(start, make_call):
    """A model that is gone from the list is told as such."""
    backend = await start()

    with pytest.raises(BackendUnavailableError) as caught:
        await backend.call(make_call(model="gone"))

    assert not caught.value.work_started


async def test_backend_starts_again_after_stop(start, published, make_call):
    """Stop can be repeated, and start may follow it."""
    backend = await start(discover=True)
    await backend.stop()
    await backend.stop()

    await backend.start(published)

    await backend.call(make_call())
