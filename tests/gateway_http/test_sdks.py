from __future__ import annotations

import asyncio

import anthropic
import httpx2
import openai
import pytest

from first_core.errors import EndpointColdError, NotFoundError, StreamTruncatedError
from first_proto.v1.catalog_pb2 import Model

CHAT = (
    b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
    b'"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)


def chunk(text: str, finish: str = "null") -> bytes:
    return (
        f'data: {{"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        f'[{{"index":0,"delta":{{"content":"{text}"}},"finish_reason":{finish}}}]}}\n\n'
    ).encode()


CHUNKS = (chunk("hel"), chunk("lo", '"stop"'), b"data: [DONE]\n\n")
MESSAGE = (
    b'{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"text",'
    b'"text":"hello"}],"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
)
MESSAGE_EVENTS = (
    (
        b'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message",'
        b'"role":"assistant","model":"m","content":[],"usage":{"input_tokens":1,"output_tokens":0}}}'
        b"\n\n"
    ),
    (
        b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
        b'"content_block":{"type":"text","text":""}}\n\n'
    ),
    (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":'
        b'{"type":"text_delta","text":"hello"}}\n\n'
    ),
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n',
    (
        b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
        b'"usage":{"output_tokens":1}}\n\n'
    ),
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
)
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def openai_client(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k", max_retries=0) as client:
        yield client


@pytest.fixture
async def anthropic_client(url):
    async with anthropic.AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
async def test_openai_chat(openai_client, router):
    """OpenAI's client gets an answer, and the request id where it looks for it."""
    router.answer.body = CHAT
    answer = await openai_client.chat.completions.create(**ASK)

    assert answer.choices[0].message.content == "hello"
    assert answer._request_id == router.metadata[0]["x-request-id"]


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
async def test_openai_stream(openai_client, router):
    """OpenAI's client gets a stream."""
    router.streams(*CHUNKS)
    stream = await openai_client.chat.completions.create(**ASK, stream=True)
    text = [part.choices[0].delta.content async for part in stream]

    assert text == ["hel", "lo"]


async def test_openai_stream_with_heartbeat(start, clock, router):
    """OpenAI's client does not mind comments."""
    url = (await start(heartbeat_s=10.0)).url
    go_on = asyncio.Event()
    router.script = [go_on, *(router.data(chunk) for chunk in CHUNKS), router.trailer()]
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="k") as client:
        asking = asyncio.create_task(client.chat.completions.create(**ASK, stream=True))
        await clock.wait_timers()
        clock.advance(10)
        stream = await asking
        go_on.set()
        text = [part.choices[0].delta.content async for part in stream]

    assert text == ["hel", "lo"]


async def test_openai_sync_client(url, router):
    """OpenAI's blocking client works as well."""
    router.streams(*CHUNKS)

    def ask():
        with openai.OpenAI(base_url=f"{url}/v1", api_key="k") as client:
            stream = client.chat.completions.create(**ASK, stream=True)
            return [part.choices[0].delta.content for part in stream]

    assert await asyncio.to_thread(ask) == ["hel", "lo"]


async def test_openai_broken_stream_raises(openai_client, router):
    """OpenAI's client raises when a stream breaks, and never takes it for complete."""
    router.script = [router.data(CHUNKS[0]), StreamTruncatedError("the answer broke off")]
    stream = await openai_client.chat.completions.create(**ASK, stream=True)

    with pytest.raises(openai.APIError, match="the answer broke off"):
        async for _ in stream:
            pass


async def test_openai_errors_have_their_classes(openai_client, router):
    """OpenAI's client tells an unknown model apart."""
    router.error = NotFoundError("no model", metadata={"model": "m"})

    with pytest.raises(openai.NotFoundError) as caught:
        await openai_client.chat.completions.create(**ASK)
    assert caught.value.code == "model_not_found"


async def test_openai_retries_after_the_said_time(url, router):
    """OpenAI's client comes again after a 503, and finds its answer."""
    router.answer.body = CHAT
    router.error = EndpointColdError("cold", retry_after_s=0)

    async def recover(_response):
        router.error = None

    transport = httpx2.AsyncClient(event_hooks={"response": [recover]})
    async with openai.AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", http_client=transport
    ) as client:
        answer = await client.chat.completions.create(**ASK)

    assert answer.choices[0].message.content == "hello"


async def test_openai_models(openai_client, router):
    """OpenAI's client lists models and gets one whose id has a slash."""
    router.models = [Model(id="a/b"), Model(id="c")]
    ids = [model.id async for model in openai_client.models.list()]
    one = await openai_client.models.retrieve("a/b")

    assert (ids, one.id) == (["a/b", "c"], "a/b")


async def test_openai_transcription(openai_client, router):
    """OpenAI's client uploads audio."""
    router.answer.body = b'{"text":"hello"}'
    answer = await openai_client.audio.transcriptions.create(model="m", file=b"\x00\x01")

    assert answer.text == "hello"


async def test_openai_embeddings(openai_client, router):
    """OpenAI's client gets vectors."""
    router.answer.body = (
        b'{"object":"list","model":"m","data":[{"object":"embedding","index":0,'
        b'"embedding":[0.5]}],"usage":{"prompt_tokens":1,"total_tokens":1}}'
    )
    answer = await openai_client.embeddings.create(model="m", input="x", encoding_format="float")

    assert answer.data[0].embedding == [0.5]


@pytest.mark.parametrize("base", ["", "/v1", "/resource_server/alpha/api"])
async def test_anthropic_message(url, router, base):
    """Anthropic's client gets an answer, also with a doubled `v1`, and sends its key."""
    router.answer.body = MESSAGE
    async with anthropic.AsyncAnthropic(base_url=f"{url}{base}", api_key="k") as client:
        answer = await client.messages.create(**ASK, max_tokens=5)

    assert answer.content[0].text == "hello"
    assert router.metadata[0]["authorization"] == "Bearer k"


async def test_anthropic_stream(anthropic_client, router):
    """Anthropic's client gets a stream."""
    router.streams(*MESSAGE_EVENTS)
    async with anthropic_client.messages.stream(**ASK, max_tokens=5) as stream:
        text = await stream.get_final_text()

    assert text == "hello"


async def test_anthropic_broken_stream_raises(anthropic_client, router):
    """Anthropic's client raises when a stream breaks."""
    router.script = [router.data(MESSAGE_EVENTS[0]), StreamTruncatedError("the answer broke off")]

    with pytest.raises(anthropic.APIStatusError, match="the answer broke off"):
        async with anthropic_client.messages.stream(**ASK, max_tokens=5) as stream:
            await stream.get_final_text()


async def test_anthropic_errors_have_their_classes(anthropic_client, router):
    """Anthropic's client tells an unknown model apart, and shows the request id."""
    router.error = NotFoundError("no model", metadata={"model": "m"})

    with pytest.raises(anthropic.NotFoundError) as caught:
        await anthropic_client.messages.create(**ASK, max_tokens=5)
    assert caught.value.request_id == router.metadata[0]["x-request-id"]


async def test_anthropic_count_tokens(anthropic_client, router):
    """Anthropic's client counts tokens."""
    router.answer.body = b'{"input_tokens":7}'
    answer = await anthropic_client.messages.count_tokens(**ASK)

    assert answer.input_tokens == 7


async def test_anthropic_models(anthropic_client, router):
    """Anthropic's client lists models in its own shape."""
    router.models = [Model(id="a/b")]
    [model] = [model async for model in anthropic_client.models.list()]

    assert (model.id, model.type) == ("a/b", "model")
