"""Clients' own SDKs work with a base URL and any key, and map our errors to theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest

from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    Simulator,
    SimulatorSettings,
    StallBeforeHead,
)

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def client(gateway):
    """OpenAI's asynchronous client, which tries nothing twice."""
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key="any", max_retries=0
    ) as opened:
        yield opened


@pytest.fixture
async def claude(gateway):
    """Anthropic's asynchronous client, which tries nothing twice."""
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, api_key="any", max_retries=0
    ) as opened:
        yield opened


async def test_openai_chat(client):
    """A chat completion comes as the SDK's own object."""
    answer = await client.chat.completions.create(model="m", messages=HI)

    assert "(simulated" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens > 0


async def test_openai_stream_is_the_plain_answer_in_pieces(client):
    """The pieces of a stream add up to the plain answer; usage comes if asked for."""
    plain = await client.chat.completions.create(model="m", messages=HI)
    stream = await client.chat.completions.create(
        model="m", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage == plain.usage


async def test_openai_stream_without_usage_shows_none(client):
    """The usage that the gateway asked for itself stays its own."""
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)

    chunks = [chunk async for chunk in stream]

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


async def test_openai_stream_helper(client):
    """The SDK's helper for streams sees a whole answer."""
    async with client.chat.completions.stream(model="m", messages=HI) as stream:
        final = await stream.get_final_completion()

    assert final.choices[0].finish_reason == "stop"


async def test_openai_raw_response_shows_our_headers(client):
    """`with_raw_response` tells who answered and under which id."""
    raw = await client.chat.completions.with_raw_response.create(
        model="m", messages=HI, extra_headers={"x-request-id": "mine"}
    )

    assert raw.headers["x-first-endpoint"] == "a/vllm/m"
    assert (raw.headers["x-request-id"], raw.request_id) == ("mine", "mine")
    assert raw.parse().choices


async def test_openai_synchronous_client(gateway):
    """The synchronous client works from a thread, streamed and not."""

    def run() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
            plain = client.chat.completions.create(model="m", messages=HI)
            stream = client.chat.completions.create(model="m", messages=HI, stream=True)
            pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
            return plain.choices[0].message.content or "", "".join(pieces)

    plain, streamed = await asyncio.to_thread(run)

    assert plain == streamed != ""


async def test_openai_completions(client):
    """Completions, plain and streamed."""
    plain = await client.completions.create(model="m", prompt=["a", "b"])
    stream = await client.completions.create(model="m", prompt="a", stream=True)

    assert len(plain.choices) == 2
    assert "".join([c.choices[0].text async for c in stream]) == plain.choices[0].text


async def test_openai_embeddings(client):
    """Embeddings; the SDK asks for base64 and decodes it."""
    answer = await client.embeddings.create(model="m", input=["a", "b"])

    assert [len(item.embedding) for item in answer.data] == [32, 32]


async def test_openai_responses(client):
    """The Responses API, plain and streamed."""
    plain = await client.responses.create(model="m", input="hi")
    stream = await client.responses.create(model="m", input="hi", stream=True)
    events = [event async for event in stream]

    assert plain.output_text
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == plain.output_text


async def test_openai_tool_calls(client):
    """Calls of tools pass as they are."""
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    choice: Any = {"type": "function", "function": {"name": "weather"}}

    answer = await client.chat.completions.create(
        model="m", messages=HI, tools=[tool], tool_choice=choice
    )

    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


async def test_openai_transcription(client):
    """A file goes up as a form."""
    answer = await client.audio.transcriptions.create(model="m", file=("a.wav", b"\0" * 5000))

    assert answer.text


async def test_openai_models(client):
    """Models are listed; ids with slashes can be retrieved, encoded or not."""
    models = await client.models.list()
    found = await client.models.retrieve("org/lora")

    assert [model.id for model in models.data] == ["m", "org/lora"]
    assert (found.id, found.object) == ("org/lora", "model")


async def test_openai_unknown_model_is_not_found(client):
    """Asked for or asked after, a model that is not there is `NotFoundError`."""
    with pytest.raises(openai.NotFoundError) as called:
        await client.chat.completions.create(model="nope", messages=HI)
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("org/nope")

    assert (called.value.code, called.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, openai.BadRequestError),
        (403, openai.PermissionDeniedError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
        (503, openai.InternalServerError),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_openai_errors(client, sim, status, error, stream):
    """Each status becomes the SDK's own error."""
    sim.faults.add(ErrorStatus(status=status, message="told by the server"))

    with pytest.raises(error) as caught:
        await client.chat.completions.create(model="m", messages=HI, stream=stream)

    assert status >= 500 or "told by the server" in caught.value.message


async def test_openai_hears_of_a_truncated_stream(client, sim):
    """A stream that breaks off raises while it is read, and never just ends."""
    sim.faults.add(CutAfterEvents(count=3))
    stream = await client.chat.completions.create(model="m", messages=HI, stream=True)

    with pytest.raises(openai.APIError) as caught:
        [chunk async for chunk in stream]

    assert caught.value.code == "stream_truncated"


async def test_openai_responses_hear_of_a_truncated_stream(client, sim):
    """The Responses API tells it in an `error` event of its own."""
    sim.faults.add(CutAfterEvents(count=4))
    stream = await client.responses.create(model="m", input="hi", stream=True)

    events = [event async for event in stream]

    assert (events[-1].type, events[-1].code) == ("error", "stream_truncated")
    assert events[-1].sequence_number == events[-2].sequence_number + 1


async def test_openai_timeout_stops_the_upstream(client, sim):
    """A client that gives up waiting ends the work."""
    sim.faults.add(StallBeforeHead())

    with pytest.raises(openai.APITimeoutError):
        await client.chat.completions.create(model="m", messages=HI, timeout=0.3)

    await sim.wait_aborts(1)


async def test_openai_retries_when_we_say_so(gateway, sim):
    """The SDK's own retry obeys our `Retry-After` and succeeds."""
    sim.faults.add(ErrorStatus(status=429, headers={"retry-after": "0.01"}))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="any") as client:
        answer = await client.chat.completions.create(model="m", messages=HI)

    assert answer.choices
    assert len(await gateway.watch.wait(2)) == 2


async def test_openai_client_reaches_the_cluster_that_its_path_names(open_gateway, sim, other_sim):
    """The paths of today's FIRST restrict a client to one cluster and framework."""
    async with open_gateway(sim, other_sim, resilience={"max_attempts": 1}) as gateway:
        base = f"{gateway.url}/resource_server/b/vllm/v1"
        async with openai.AsyncOpenAI(base_url=base, api_key="any", max_retries=0) as client:
            raw = await client.chat.completions.with_raw_response.create(model="m", messages=HI)
            other_sim.faults.add(ErrorStatus(status=500))
            with pytest.raises(openai.InternalServerError):
                await client.chat.completions.create(model="m", messages=HI)

    assert raw.headers["x-first-endpoint"] == "b/vllm/m"
    assert sim.posts == []


async def test_anthropic_message(claude):
    """A message comes as the SDK's own object."""
    answer = await claude.messages.create(model="m", max_tokens=30, messages=HI)

    assert "(simulated" in answer.content[0].text
    assert answer.usage.output_tokens > 0


async def test_anthropic_stream_is_the_plain_answer_in_pieces(claude):
    """The pieces of a stream add up to the plain message."""
    plain = await claude.messages.create(model="m", max_tokens=30, messages=HI)
    async with claude.messages.stream(model="m", max_tokens=30, messages=HI) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()

    assert text == plain.content[0].text == final.content[0].text
    assert final.usage.output_tokens == plain.usage.output_tokens


async def test_anthropic_count_tokens(claude):
    """Counting tokens has its own path."""
    counted = await claude.messages.count_tokens(model="m", messages=HI)

    assert counted.input_tokens > 0


async def test_anthropic_models(claude):
    """Models come in Anthropic's shape."""
    models = await claude.models.list()
    found = await claude.models.retrieve("org/lora")

    assert [model.id for model in models.data] == ["m", "org/lora"]
    assert (found.type, found.display_name) == ("model", "org/lora")


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.RequestTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "overloaded_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_anthropic_errors(claude, sim, *, status, error, kind, stream):
    """Each status becomes the SDK's own error, with the type that belongs to it."""
    sim.faults.add(ErrorStatus(status=status))

    with pytest.raises(anthropic.APIStatusError) as caught:
        await claude.messages.create(model="m", max_tokens=9, messages=HI, stream=stream)

    assert isinstance(caught.value, error)
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id == caught.value.body["request_id"]


async def test_anthropic_hears_of_a_truncated_stream(claude, sim):
    """A stream that breaks off raises while it is read."""
    sim.faults.add(CutAfterEvents(count=5))

    async with claude.messages.stream(model="m", max_tokens=30, messages=HI) as stream:
        with pytest.raises(anthropic.APIStatusError):
            await stream.get_final_message()


async def test_anthropic_cancelled_stops_the_upstream(claude, sim):
    """Cancelling the task that waits in the SDK aborts the work."""
    sim.faults.add(StallBeforeHead())
    call = claude.messages.create(model="m", max_tokens=9, messages=HI)
    task = asyncio.create_task(call)
    await sim.wait_running(1)

    task.cancel()

    await sim.wait_aborts(1)
    await asyncio.wait([task])


async def test_the_clients_key_goes_no_further(open_gateway, monkeypatch):
    """No upstream sees the key that a client shows; it gets the gateway's own credential."""
    monkeypatch.setenv("SERVER_KEY", "key-of-the-gateway")
    settings = SimulatorSettings(models=("m",), api_key="key-of-the-gateway")
    async with Simulator(settings) as sim:
        server = {"url": sim.url, "api_key": {"env": "SERVER_KEY"}}
        async with open_gateway(vllm={"servers": [server]}) as gateway:
            shown = "key-of-the-client"
            answer = await gateway.post(
                "/v1/chat/completions",
                {"model": "m", "messages": HI},
                authorization=f"Bearer {shown}",
                x_api_key=shown,
                cookie=shown,
                proxy_authorization=shown,
            )

    assert answer.status == 200
    assert shown not in str(sim.received)
    assert {r[2]["authorization"] for r in sim.received} == {"Bearer key-of-the-gateway"}
