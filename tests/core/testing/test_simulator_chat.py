"""The simulated chat route follows vLLM."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest

from first_core.testing.simulator import LoraAdapter, Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = "/v1/chat/completions"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["C", "F"]},
            },
            "required": ["place", "days", "unit"],
        },
    },
}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = SimulatorSettings(
        models=("m", "other"), lora_adapters=(LoraAdapter(name="lora", parent="m"),)
    )
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.fixture
async def session(sim: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.url) as client:
        yield client


def body(text: str = "hi", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


async def ask(session: aiohttp.ClientSession, sent: Any, *, status: int = 200) -> Any:
    async with session.post(CHAT, json=sent) as answer:
        assert answer.status == status, await answer.text()
        return await answer.json()


async def stream(session: aiohttp.ClientSession, sent: dict[str, Any]) -> list[Any]:
    async with session.post(CHAT, json={**sent, "stream": True}) as answer:
        assert answer.content_type == "text/event-stream"
        blocks = (await answer.read()).decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def joined(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(c["delta"].get("content") or "" for c in choices if c["index"] == index)


async def test_chat_has_every_field_of_vllm(session) -> None:
    """The answer has vLLM's fields, those that are null included."""
    answer = await ask(session, body())
    choice = answer["choices"][0]

    assert {"prompt_logprobs", "kv_transfer_params", "system_fingerprint"} <= set(answer)
    assert (answer["object"], answer["model"]) == ("chat.completion", "m")
    assert choice["message"]["content"].startswith("(simulated)")
    assert choice["message"]["refusal"] is None
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)


async def test_chat_counts_usage(session) -> None:
    """Usage is what the tokenizer counts."""
    answer = await ask(session, body())
    async with session.post("/tokenize", json={"messages": body()["messages"]}) as tokenized:
        prompt = (await tokenized.json())["count"]
    text = answer["choices"][0]["message"]["content"]
    async with session.post("/tokenize", json={"prompt": text}) as tokenized:
        completion = (await tokenized.json())["count"]

    assert answer["usage"]["prompt_tokens"] == prompt
    assert answer["usage"]["completion_tokens"] == completion == 60
    assert answer["usage"]["total_tokens"] == prompt + completion


async def test_stream_gives_the_text_of_the_whole_answer(session) -> None:
    """Streamed or not, the text is the same."""
    whole = await ask(session, body())
    chunks = await stream(session, body())

    assert joined(chunks) == whole["choices"][0]["message"]["content"]


async def test_stream_begins_with_the_role_and_ends_with_the_reason(session) -> None:
    """First chunk: role and empty content; only the last has a finish reason."""
    chunks = await stream(session, body())
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]

    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert all("usage" not in chunk for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_stream_sends_one_token_per_chunk(session) -> None:
    """Sixty tokens: role, sixty pieces, end."""
    assert len(await stream(session, body())) == 62


async def test_stream_of_every_kind_has_one_shape(session) -> None:
    """The fast path for plain text sends what the general path sends."""
    fast = await stream(session, body())
    general = await stream(session, body(stream_options={"continuous_usage_stats": True}))

    for chunk in fast + general:
        chunk.pop("id")
        chunk.pop("created")
    assert fast == general


async def test_stream_tells_usage_in_a_chunk_without_choices(session) -> None:
    """`include_usage` adds one chunk before the end mark."""
    *_, last = await stream(session, body(stream_options={"include_usage": True}))

    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 60


async def test_stream_tells_usage_in_each_chunk_if_asked(session) -> None:
    """`continuous_usage_stats` counts up token by token."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = await stream(session, body(max_tokens=3, stream_options=options))

    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_chat_obeys_the_token_limit(session, field: str) -> None:
    """At the limit the answer is cut with reason `length`."""
    answer = await ask(session, body(**{field: 7}))

    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 7


async def test_stream_cut_by_the_limit_tells_it_with_its_last_token(session) -> None:
    """vLLM sends the last token and `length` in one chunk."""
    chunks = await stream(session, body(max_tokens=3))

    assert len(chunks) == 4
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"][0]["delta"]["content"]


async def test_chat_goes_on_past_its_natural_end_if_asked(session) -> None:
    """With `ignore_eos` only the limit ends the answer."""
    answer = await ask(session, body(ignore_eos=True, max_tokens=300))

    assert answer["usage"]["completion_tokens"] == 300


async def test_chat_takes_explicit_nulls(session) -> None:
    """Null means: not given."""
    nulls = dict.fromkeys(["max_tokens", "temperature", "stop", "n", "tools", "stream", "seed"])
    answer = await ask(session, body(**nulls))

    assert answer["usage"]["completion_tokens"] == 60


async def test_chat_ignores_unknown_fields(session) -> None:
    """A field that nobody knows changes nothing."""
    await ask(session, body(guided_json={"x": 1}, unheard_of=True))


async def test_chat_reads_content_in_parts(session) -> None:
    """A list of parts is the text of its parts."""
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    answer = await ask(session, {"messages": [{"role": "user", "content": parts}]})

    expected = await ask(session, body())
    assert answer["choices"] == expected["choices"]


async def test_chat_answers_with_several_choices(session) -> None:
    """`n` choices differ, and streams carry each under its index."""
    answer = await ask(session, body(n=3))
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    chunks = await stream(session, body(n=3))

    assert len(set(texts)) == 3
    assert [joined(chunks, index) for index in range(3)] == texts
    assert answer["usage"]["completion_tokens"] == 180


async def test_chat_stops_at_a_stop_string(session) -> None:
    """The stop string ends the answer and is told as the reason."""
    answer = await ask(session, body(stop="ated"))
    chunks = await stream(session, body(stop=["ated"]))

    assert answer["choices"][0]["message"]["content"] == joined(chunks) == "(simul"
    assert answer["choices"][0]["stop_reason"] == "ated"
    assert chunks[-1]["choices"][0]["stop_reason"] == "ated"


async def test_chat_tells_log_probabilities(session) -> None:
    """Each token has its own and as many others as asked for."""
    sent = body(max_tokens=2, logprobs=True, top_logprobs=3)
    content = (await ask(session, sent))["choices"][0]["logprobs"]["content"]
    chunks = await stream(session, sent)

    assert [token["token"] for token in content] == ["(", "simul"]
    assert [len(token["top_logprobs"]) for token in content] == [3, 3]
    streamed = [c["choices"][0]["logprobs"] for c in chunks[1:]]
    assert [part["content"][0] for part in streamed] == content


@pytest.mark.parametrize(
    ("choice", "reason"),
    [("required", "tool_calls"), ({"type": "function", "function": {"name": "weather"}}, "stop")],
)
async def test_chat_calls_a_tool(session, choice: Any, reason: str) -> None:
    """A required or named tool is called with arguments that fit its schema."""
    sent = body(tools=[TOOL], tool_choice=choice)
    first = (await ask(session, sent))["choices"][0]
    call = first["message"]["tool_calls"][0]
    arguments = json.loads(call["function"]["arguments"])

    assert (call["type"], call["function"]["name"]) == ("function", "weather")
    assert (arguments["days"], arguments["unit"]) == (42, "C")
    assert (first["message"]["content"], first["finish_reason"]) == (None, reason)


async def test_stream_sends_tool_arguments_in_fragments(session) -> None:
    """The name comes once, the arguments piece by piece, and joined they are JSON."""
    chunks = await stream(session, body(tools=[TOOL], tool_choice="required"))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]

    assert calls[0]["function"]["name"] == "weather"
    assert all("name" not in call["function"] for call in calls[1:])
    assert json.loads("".join(call["function"]["arguments"] for call in calls))["days"] == 42
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_chat_answers_in_words_where_tools_are_optional(session) -> None:
    """`auto` gives text unless a setting says otherwise."""
    answer = await ask(session, body(tools=[TOOL], tool_choice="auto"))

    assert answer["choices"][0]["message"]["tool_calls"] == []


async def test_chat_continues_an_unfinished_message(session) -> None:
    """What was sent and what follows are the uncut answer, and the usage adds up."""
    uncut = (await ask(session, body()))["choices"][0]["message"]["content"]
    begun = (await ask(session, body(max_tokens=20)))["choices"][0]["message"]["content"]
    sent = body(continue_final_message=True, add_generation_prompt=False, max_tokens=100)
    sent["messages"].append({"role": "assistant", "content": begun})
    rest = await ask(session, sent)

    assert begun + rest["choices"][0]["message"]["content"] == uncut
    assert rest["usage"]["completion_tokens"] == 40


async def test_chat_refuses_to_continue_and_to_begin_at_once(session) -> None:
    """`continue_final_message` with `add_generation_prompt` is a 400."""
    sent = body(continue_final_message=True, add_generation_prompt=True)

    assert "continue_final_message" in (await ask(session, sent, status=400))["error"]["message"]


async def test_chat_refuses_unknown_models(session) -> None:
    """404 in vLLM's words."""
    answer = await ask(session, body(model="nope"), status=404)

    assert answer["error"] == {
        "message": "The model `nope` does not exist.",
        "type": "NotFoundError",
        "param": "model",
        "code": 404,
    }


async def test_chat_answers_under_the_name_asked_for(session) -> None:
    """A LoRA adapter is a model of its own."""
    assert (await ask(session, body(model="lora")))["model"] == "lora"


@pytest.mark.parametrize("sent", [{}, {"messages": []}, {"messages": "hi"}, [], "x"])
async def test_chat_refuses_bodies_of_the_wrong_shape(session, sent: Any) -> None:
    """400 with an error object, whatever is wrong."""
    assert (await ask(session, sent, status=400))["error"]["code"] == 400


async def test_chat_refuses_what_is_no_json(session) -> None:
    """400 for a body that cannot be read."""
    async with session.post(CHAT, data=b"{") as answer:
        assert answer.status == 400


async def test_chat_refuses_prompts_past_the_context_length() -> None:
    """The message names the maximum context length, as clients look for it."""
    settings = SimulatorSettings(models=("m",), max_model_len=100)
    async with Simulator(settings) as sim, aiohttp.ClientSession(sim.url) as session:
        long = await ask(session, body("word " * 100), status=400)
        both = await ask(session, body(max_tokens=99), status=400)

    assert "maximum context length is 100 tokens" in long["error"]["message"]
    assert "99 output tokens" in both["error"]["message"]


async def test_chat_refuses_token_limits_below_one(session) -> None:
    """`max_tokens: 0` is a 400."""
    answer = await ask(session, body(max_tokens=0), status=400)

    assert answer["error"]["message"] == "max_tokens must be at least 1, got 0."


async def test_chat_refuses_a_tool_nobody_offers(session) -> None:
    """A named tool must be among the tools."""
    await ask(session, body(tool_choice={"function": {"name": "nope"}}), status=400)
    await ask(session, body(tool_choice="required"), status=400)


async def test_simulator_answers_500_where_it_fails_itself(session, caplog) -> None:
    """What it cannot make sense of is logged and told, and the next call works."""
    answer = await ask(session, body(tools=[TOOL], tool_choice={"function": 5}), status=500)
    await ask(session, body())

    assert answer["error"]["code"] == 500
    assert "simulator_call_failed" in caplog.text


async def test_chat_takes_the_id_from_the_request(session) -> None:
    """`X-Request-Id` becomes part of the id, as in vLLM."""
    async with session.post(CHAT, json=body(), headers={"X-Request-Id": "abc"}) as answer:
        assert (await answer.json())["id"] == "chatcmpl-abc"


async def test_chat_satisfies_the_openai_client(sim: Simulator) -> None:
    """The official client reads the stream, its usage and its end."""
    async with openai.AsyncOpenAI(base_url=sim.url + "/v1", api_key="none") as client:
        chunks = [
            chunk
            async for chunk in await client.chat.completions.create(
                model="m",
                messages=[{"role": "user", "content": "hi"}],
                stream=True,
                stream_options={"include_usage": True},
            )
        ]

    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text.startswith("(simulated)")
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 60
