"""The routes beside chat: shapes, streams and errors."""

from __future__ import annotations

import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import aiohttp
import anthropic
import openai
import pytest

from first_core.testing.simulator import LoraAdapter, Simulator, SimulatorSettings, tokenizer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROLE = [{"role": "user", "content": "hi"}]
TOOL = {"name": "weather", "parameters": {"properties": {"place": {"type": "string"}}}}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        models=("m",), lora_adapters=(LoraAdapter(name="lora", parent="m"),), max_model_len=500
    )
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.fixture
async def session(sim: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.url) as client:
        yield client


async def post(session: aiohttp.ClientSession, path: str, *, status: int = 200, **body: Any) -> Any:
    async with session.post(path, json=body) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def get(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path) as answer:
        assert answer.status == 200
        return await answer.json()


async def sse(
    session: aiohttp.ClientSession, path: str, **body: Any
) -> list[tuple[str | None, Any]]:
    """Return (type, data) of each event; data as text where it is no JSON."""
    async with session.post(path, json={**body, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        text = (await answer.read()).decode()
    events: list[tuple[str | None, Any]] = []
    for block in text.split("\n\n")[:-1]:
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        data = lines["data"]
        events.append((lines.get("event"), data if data == "[DONE]" else json.loads(data)))
    return events


async def test_completion_has_the_fields_of_vllm(session) -> None:
    """Sixteen tokens by default."""
    answer = await post(session, "/v1/completions", model="m", prompt="hi")
    choice = answer["choices"][0]

    assert (answer["object"], choice["finish_reason"]) == ("text_completion", "length")
    assert choice["text"].startswith("(simulated)")
    assert answer["usage"]["completion_tokens"] == 16
    assert {"logprobs", "stop_reason", "prompt_logprobs"} <= set(choice)


@pytest.mark.parametrize(
    "prompt",
    ["hi", ["hi"], tokenizer.encode("hi"), [tokenizer.encode("hi")]],
    ids=["text", "texts", "tokens", "token lists"],
)
async def test_completion_takes_prompts_in_every_form(session, prompt) -> None:
    """Text and its tokens are the same prompt."""
    answer = await post(session, "/v1/completions", prompt=prompt)

    expected = await post(session, "/v1/completions", prompt="hi")
    assert answer["choices"] == expected["choices"]
    assert answer["usage"] == expected["usage"]


async def test_completion_answers_each_prompt_in_order(session) -> None:
    """Choices of the first prompt first, indices throughout."""
    answer = await post(session, "/v1/completions", prompt=["a", "b"], n=2, echo=True)
    choices = answer["choices"]

    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert [choice["text"][:2] for choice in choices] == ["a(", "a(", "b(", "b("]


async def test_completion_stream_gives_the_same_text(session) -> None:
    """Piece by piece, with usage null in each chunk, as vLLM sends it."""
    body = {"prompt": ["a", "b"], "max_tokens": 9}
    whole = await post(session, "/v1/completions", **body)
    *chunks, done = [data for _, data in await sse(session, "/v1/completions", **body)]
    texts = ["", ""]
    for chunk in chunks:
        assert chunk["usage"] is None
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]

    assert texts == [choice["text"] for choice in whole["choices"]]
    assert done == "[DONE]"


async def test_completion_tells_log_probabilities(session) -> None:
    """Tokens, offsets and values line up."""
    answer = await post(session, "/v1/completions", prompt="a", max_tokens=3, logprobs=2)
    logprobs = answer["choices"][0]["logprobs"]

    assert logprobs["tokens"] == ["(", "simul", "ated"]
    assert logprobs["text_offset"] == [0, 1, 6]
    assert [len(top) for top in logprobs["top_logprobs"]] == [2, 2, 2]


@pytest.mark.parametrize("prompt", [[], [[]], [-1], [True], {"a": 1}, None])
async def test_completion_refuses_prompts_of_the_wrong_shape(session, prompt) -> None:
    """400, except an empty token list, which is an empty prompt."""
    status = 200 if prompt == [[]] else 400
    await post(session, "/v1/completions", status=status, prompt=prompt)


async def test_embeddings_are_vectors_of_length_one(session) -> None:
    """Same text, same vector; as many parts as asked for."""
    answer = await post(session, "/v1/embeddings", input=["a", "b", "a"], dimensions=8)
    first, second, third = [item["embedding"] for item in answer["data"]]

    assert first == third != second
    assert len(first) == 8
    assert sum(part * part for part in first) == pytest.approx(1)
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "total_tokens": 3,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


async def test_embeddings_come_as_base64_if_asked(session) -> None:
    """Little-endian 32-bit floats."""
    plain = await post(session, "/v1/embeddings", input="a")
    coded = await post(session, "/v1/embeddings", input="a", encoding_format="base64")
    raw = base64.b64decode(coded["data"][0]["embedding"])

    assert struct.unpack("<32f", raw) == pytest.approx(plain["data"][0]["embedding"])


@pytest.mark.parametrize(
    "body", [{"input": []}, {}, {"input": "a", "dimensions": 0}, {"input": "x " * 600}]
)
async def test_embeddings_refuse_what_they_cannot_do(session, body) -> None:
    """No input, no dimensions, or too long: 400."""
    await post(session, "/v1/embeddings", status=400, **body)


async def test_response_has_an_output_message(session) -> None:
    """Text and usage stand where the Responses shape has them."""
    answer = await post(session, "/v1/responses", model="m", input="hi", instructions="be kind")
    (item,) = answer["output"]

    assert (answer["object"], answer["status"]) == ("response", "completed")
    assert item["content"][0]["text"].startswith("(simulated)")
    assert answer["usage"]["output_tokens"] == 60


async def test_response_cut_by_its_limit_says_so(session) -> None:
    """Status `incomplete` with the reason."""
    answer = await post(session, "/v1/responses", input="hi", max_output_tokens=5)

    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_response_stream_has_typed_events_in_order(session) -> None:
    """From created to completed, numbered throughout, and without `[DONE]`."""
    events = await sse(session, "/v1/responses", input=[{"role": "user", "content": "hi"}])
    kinds = [kind for kind, _ in events]
    text = "".join(d["delta"] for kind, d in events if kind == "response.output_text.delta")

    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[4:64] == ["response.output_text.delta"] * 60
    assert kinds[64:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    assert [data["type"] for _, data in events] == kinds
    assert events[-1][1]["response"]["output"][0]["content"][0]["text"] == text


async def test_response_calls_a_tool(session) -> None:
    """A function call item, its arguments in fragments."""
    body = {"input": "hi", "tools": [{"type": "function", **TOOL}], "tool_choice": "required"}
    events = await sse(session, "/v1/responses", **body)
    stem = "response.function_call_arguments"
    arguments = "".join(data["delta"] for kind, data in events if kind == f"{stem}.delta")
    (item,) = (await post(session, "/v1/responses", **body))["output"]

    assert (item["type"], item["name"]) == ("function_call", "weather")
    assert item["arguments"] == arguments
    assert "place" in json.loads(arguments)


async def test_response_stream_satisfies_the_openai_client(sim) -> None:
    """The official client collects the final response."""
    async with (
        openai.AsyncOpenAI(base_url=sim.url + "/v1", api_key="none") as client,
        client.responses.stream(model="m", input="hi") as stream,
    ):
        response = await stream.get_final_response()

    assert response.output_text.startswith("(simulated)")


async def test_message_has_the_anthropic_shape(session) -> None:
    """Content blocks, stop reason and usage."""
    answer = await post(session, "/v1/messages", model="m", max_tokens=100, messages=ROLE)

    assert (answer["type"], answer["stop_reason"]) == ("message", "end_turn")
    assert answer["content"][0]["text"].startswith("(simulated)")
    assert answer["usage"]["output_tokens"] == 60


async def test_message_stream_has_the_anthropic_events(session) -> None:
    """Start, block, deltas, block end, final delta with usage, stop."""
    events = await sse(session, "/v1/messages", max_tokens=3, messages=ROLE)

    assert [kind for kind, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert events[0][1]["message"]["usage"]["output_tokens"] == 0
    assert events[-2][1]["delta"]["stop_reason"] == "max_tokens"
    assert events[-2][1]["usage"]["output_tokens"] == 3


async def test_message_stream_satisfies_the_anthropic_client(sim) -> None:
    """The official client collects the message, tool call included."""
    tool = {"name": "weather", "input_schema": TOOL["parameters"]}
    async with (
        anthropic.AsyncAnthropic(base_url=sim.url, api_key="none") as client,
        client.messages.stream(
            model="m", max_tokens=100, messages=ROLE, tools=[tool], tool_choice={"type": "any"}
        ) as stream,
    ):
        message = await stream.get_final_message()

    assert message.stop_reason == "tool_use"
    assert message.content[0].name == "weather"
    assert "place" in message.content[0].input


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "nope", "max_tokens": 5, "messages": ROLE}, 404, "NotFoundError"),
        ({"messages": ROLE}, 400, "BadRequestError"),
        ({"max_tokens": 5, "messages": []}, 400, "BadRequestError"),
    ],
)
async def test_message_errors_have_the_anthropic_shape(session, body, status, kind) -> None:
    """Type `error` outside, the kind inside."""
    answer = await post(session, "/v1/messages", status=status, **body)

    assert answer["type"] == "error"
    assert answer["error"]["type"] == kind


async def test_message_tokens_can_be_counted(session) -> None:
    """The count is what the call's usage tells."""
    body = {"messages": ROLE, "system": [{"type": "text", "text": "be kind"}]}
    count = await post(session, "/v1/messages/count_tokens", **body)
    answer = await post(session, "/v1/messages", max_tokens=5, **body)

    assert count == {"input_tokens": answer["usage"]["input_tokens"]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_rerank_orders_documents(session, path) -> None:
    """Best first, with the index of each, cut at `top_n`."""
    body = {"query": "red fox", "documents": ["a dog", "a red fox", {"text": "red"}], "top_n": 2}
    answer = await post(session, path, **body)

    assert [result["index"] for result in answer["results"]] == [1, 2]
    assert answer["results"][0]["document"]["text"] == "a red fox"
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_score_pairs_one_with_many(session, path) -> None:
    """One query, two documents: two scores in their order."""
    answer = await post(session, path, text_1="red fox", text_2=["a dog", "red fox"])
    renamed = await post(session, path, queries="red fox", documents=["a dog", "red fox"])
    first, second = [item["score"] for item in answer["data"]]

    assert first < second
    assert renamed["data"] == answer["data"]


async def test_score_refuses_lists_that_do_not_pair(session) -> None:
    """Two to three: 400."""
    await post(session, "/score", status=400, text_1=["a", "b"], text_2=["a", "b", "c"])


async def test_tokenize_and_detokenize_are_each_others_inverse(session) -> None:
    """Text to ids and back, with the texts of the tokens if asked."""
    text = "héllo 漢字 🙂"
    answer = await post(session, "/tokenize", prompt=text, return_token_strs=True)
    back = await post(session, "/detokenize", tokens=answer["tokens"])

    assert back == {"prompt": text}
    assert answer["count"] == len(answer["tokens"])
    assert "".join(answer["token_strs"]) == text
    assert answer["max_model_len"] == 500


async def test_detokenize_refuses_ids_out_of_range(session) -> None:
    """400 and not a crash."""
    await post(session, "/detokenize", status=400, tokens=[-5])


def form(**fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("file", b"\r\n--RIFF" * 9000, filename="a.wav", content_type="audio/wav")
    for name, value in fields.items():
        data.add_field(name, value)
    return data


async def test_transcription_answers_as_json(session) -> None:
    """Text, and the length of the sound in seconds."""
    async with session.post("/v1/audio/transcriptions", data=form(model="m")) as answer:
        body = await answer.json()

    assert body["text"].startswith("(simulated)")
    assert body["usage"] == {"type": "duration", "seconds": 3}


async def test_transcription_answers_as_text(session) -> None:
    """`response_format=text` is the bare text."""
    sent = form(model="m", response_format="text")
    async with session.post("/v1/audio/transcriptions", data=sent) as answer:
        assert answer.content_type == "text/plain"
        assert (await answer.text()).startswith("(simulated)")


async def test_transcription_streams_chunks(session) -> None:
    """Chunks as in chat, and `[DONE]`."""
    async with session.post("/v1/audio/transcriptions", data=form(stream="true")) as answer:
        blocks = (await answer.text()).split("\n\n")
    first = json.loads(blocks[0].removeprefix("data: "))

    assert first["object"] == "transcription.chunk"
    assert first["choices"][0]["delta"]["content"] == "("
    assert blocks[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("fields", [{"model": "nope"}, {"response_format": "srt"}])
async def test_transcription_refuses_what_it_cannot_do(session, fields) -> None:
    """Unknown model or format."""
    async with session.post("/v1/audio/transcriptions", data=form(**fields)) as answer:
        assert answer.status in {400, 404}


async def test_transcription_wants_a_form(session) -> None:
    """JSON is refused."""
    await post(session, "/v1/audio/transcriptions", status=400, model="m")


async def test_models_have_cards_as_in_vllm(session) -> None:
    """Adapters name their parent."""
    model, adapter = (await get(session, "/v1/models"))["data"]

    assert (model["id"], model["object"], model["owned_by"]) == ("m", "model", "vllm")
    assert (model["root"], model["parent"], model["max_model_len"]) == ("m", None, 500)
    assert model["permission"][0]["object"] == "model_permission"
    assert (adapter["id"], adapter["parent"]) == ("lora", "m")


async def test_health_is_empty(session) -> None:
    """200 with no body."""
    async with session.get("/health") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_metrics_count_tokens_and_ends(session) -> None:
    """Both names of the cache gauge, and counters that grow."""
    await post(session, "/v1/completions", prompt="hi", max_tokens=5)
    async with session.get("/metrics") as answer:
        text = await answer.text()
    labels = 'engine="0",model_name="m"'

    assert f"vllm:kv_cache_usage_perc{{{labels}}} 0.0" in text
    assert f"vllm:gpu_cache_usage_perc{{{labels}}} 0.0" in text
    assert f"vllm:generation_tokens_total{{{labels}}} 5.0" in text
    assert f'vllm:request_success_total{{{labels},finished_reason="length"}} 1.0' in text


async def test_simulator_says_what_it_is(session) -> None:
    """Nobody who looks takes it for a real server."""
    about = await get(session, "/sim")
    version = await get(session, "/version")
    async with session.get("/health") as answer:
        server = answer.headers["server"]

    assert about["simulator"] is True
    assert "SIMULATOR" in about["what"]
    assert version["version"].endswith("+simulator")
    assert server == "first-simulator"
