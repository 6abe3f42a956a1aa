"""A chat stream that breaks goes on elsewhere as if nothing had happened, where that is allowed."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import openai
import pytest

from first_core.client import RouterClient, connect
from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    DoneWithoutFinish,
    ErrorInside,
    ErrorStatus,
    Garbage,
    Raw,
    Refuse,
    Simulator,
    SimulatorSettings,
    StallAfterEvents,
    StallBeforeHead,
)
from first_core.types import Usage
from first_proto.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DONE = b"data: [DONE]"
HI = [{"role": "user", "content": "hi"}]
RESILIENCE = {"max_attempts": 4, "same_endpoint_wait_s": 0.01}
SIM = SimulatorSettings(models=("m",), seed=7, greeting=False, natural_token_count=60)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
LAST_CUT = 61
"""The role and 60 tokens; the event after them has the finish reason."""


class Own(Simulator):
    """A simulator that names its answers itself, so that two of them never agree by chance."""

    tag = "a"

    def next_id(self, request: object) -> str:
        del request
        return f"{self.tag}{next(self._id_numbers):08d}"


@dataclass
class Joined:
    """A streamed answer as a client puts it together."""

    text: str
    roles: list[str]
    finishes: list[str]
    ids: set[str]
    usages: list[dict[str, Any]]


def joined(events: list[bytes]) -> Joined:
    found = Joined("", [], [], set(), [])
    for event in events:
        if event == DONE:
            continue
        chunk = json.loads(event.removeprefix(b"data: "))
        found.ids.add(chunk["id"])
        if chunk.get("usage"):
            found.usages.append(chunk["usage"])
        for choice in chunk["choices"]:
            found.text += choice["delta"].get("content") or ""
            found.roles += [choice["delta"]["role"]] if "role" in choice["delta"] else []
            found.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
    return found


def is_broken(answer: Any) -> bool:
    """Tell whether a stream ends in one error event and no end mark."""
    return b'"error"' in answer.events[-1] and DONE not in answer.events


async def opened(tag: str, **changes: Any) -> Own:
    simulator = Own(replace(SIM, name=f"sim-{tag}", **changes))
    simulator.tag = tag
    await simulator.start()
    return simulator


@pytest.fixture
async def first() -> AsyncIterator[Own]:
    """Cluster `a`, which gets each call first."""
    simulator = await opened("a")
    yield simulator
    await simulator.stop()


@pytest.fixture
async def second() -> AsyncIterator[Own]:
    """Cluster `b`: the same model under another name of the server."""
    simulator = await opened("b")
    yield simulator
    await simulator.stop()


@pytest.fixture
async def third() -> AsyncIterator[Own]:
    """Cluster `c`."""
    simulator = await opened("c")
    yield simulator
    await simulator.stop()


@pytest.fixture
async def pair(open_gateway, first, second):
    """A gateway before `first` and `second`."""
    async with open_gateway(first, second, resilience=RESILIENCE) as gateway:
        yield gateway


async def chat(gateway: Any, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"model": "m", "messages": HI, "stream": True, **fields}
    return await gateway.post("/v1/chat/completions", body, **(headers or {}))


async def please(gateway: Any, times: int = 2) -> None:
    """Let cluster `a` answer well, so that its breaker stays closed whatever is cut."""
    for _ in range(times):
        body = {"model": "m", "messages": HI, "max_tokens": 1}
        answer = await gateway.post("/resource_server/a/vllm/v1/chat/completions", body)
        assert answer.status == 200


async def test_a_cut_at_each_event_leaves_no_trace(pair, first):
    """Wherever a stream of 60 tokens breaks, the client gets the very answer of the uncut one."""
    whole = joined((await chat(pair)).events)
    usage = (await pair.watch.wait(1))[0].usage
    answers, records = [], []
    for count in range(1, LAST_CUT + 1):
        kind = {0: {}, 1: {"clean": True}, 2: {"reset": True}}[count % 3]
        first.faults.add(CutAfterEvents(count=count, **kind))
        answers.append(await chat(pair))
        records.append(pair.watch.records[-1])
        await please(pair)

    found = [joined(answer.events) for answer in answers]
    assert [answer.events[-1] for answer in answers] == [DONE] * LAST_CUT
    assert {each.text for each in found} == {whole.text}
    assert [each.roles for each in found] == [["assistant"]] * LAST_CUT
    assert [each.finishes for each in found] == [["stop"]] * LAST_CUT
    assert {len(each.ids) for each in found} == {1}
    assert [each.usages for each in found] == [[]] * LAST_CUT
    assert [record.usage for record in records] == [usage] * LAST_CUT
    assert {record.attempt_count for record in records} == {2}


async def test_a_cut_inside_a_character_leaves_no_trace(pair, first):
    """Half a character is never sent; the endpoint that goes on sends it whole."""
    whole = await chat(pair)
    place = next(n for n, byte in enumerate(whole.body) if byte > 0x7F)
    cuts = [CutInsideCharacter(), CutInsideCharacter(clean=True)]
    cuts += [CutAfterBytes(count=place + offset) for offset in range(-2, 6)]
    texts = set()
    for cut in cuts:
        first.faults.add(cut)
        answer = await chat(pair)
        texts.add(joined(answer.events).text)
        await please(pair)

    assert texts == {joined(whole.events).text}


@pytest.mark.parametrize("count", [1, 2, 31, 60, 61])
async def test_usage_that_was_asked_for_is_that_of_the_whole_answer(pair, first, count):
    """The usage event counts prompt and answer once, as if one endpoint had said it all."""
    asked = {"stream_options": {"include_usage": True}}
    whole = joined((await chat(pair, **asked)).events)
    first.faults.add(CutAfterEvents(count=count))

    found = joined((await chat(pair, **asked)).events)

    assert found.usages == whole.usages
    assert whole.usages[0]["completion_tokens"] == 60


async def test_the_token_limit_holds_across_a_cut(pair, first):
    """An answer that may have 20 tokens has them, and ends for its length, wherever it broke."""
    whole = joined((await chat(pair, max_tokens=20)).events)
    found = []
    for count in range(1, 21):
        first.faults.add(CutAfterEvents(count=count))
        found.append(joined((await chat(pair, max_tokens=20)).events))
        await please(pair)

    assert {each.text for each in found} == {whole.text}
    assert [each.finishes for each in found] == [["length"]] * 20


async def test_an_answer_that_breaks_twice_still_becomes_whole(pair, first, second):
    """The endpoint that goes on may break too; then the text of both is gone on from."""
    whole = joined((await chat(pair)).events)
    usage = (await pair.watch.wait(1))[0].usage
    first.faults.add(CutAfterEvents(count=20))
    second.faults.add(CutAfterEvents(count=20, clean=True))

    answer = await chat(pair)

    found = joined(answer.events)
    record = pair.watch.records[-1]
    assert (found.text, found.roles, found.finishes) == (whole.text, ["assistant"], ["stop"])
    assert len(found.ids) == 1
    assert (record.usage, record.attempt_count) == (usage, 3)


@pytest.mark.parametrize(
    "fault",
    [
        ErrorStatus(status=400),
        ErrorStatus(status=404),
        ErrorStatus(status=429),
        ErrorStatus(status=429, headers={"retry-after": "9"}),
        ErrorStatus(status=500),
        ErrorStatus(status=503),
        ErrorInside(),
        Garbage(),
        Refuse(),
        StallBeforeHead(),
        CutAfterEvents(count=1),
    ],
    ids=repr,
)
async def test_an_endpoint_that_cannot_go_on_is_followed_by_another(
    open_gateway, first, second, third, fault
):
    """What goes wrong while going on is nobody's last word while there is one more endpoint."""
    bounds = {"first_chunk_s": 0.3}
    async with open_gateway(
        first, second, third, resilience=RESILIENCE, timeouts=bounds
    ) as gateway:
        whole = joined((await chat(gateway)).events)
        first.faults.add(CutAfterEvents(count=20))
        second.faults.add(fault)
        found = joined((await chat(gateway)).events)

    assert (found.text, found.roles, found.finishes) == (whole.text, ["assistant"], ["stop"])


async def test_a_stream_that_nobody_can_go_on_with_ends_in_an_error(pair, first, second):
    """Where the other endpoint refuses to go on, the client hears of the cut."""
    first.faults.add(CutAfterEvents(count=20))
    first.faults.add(ErrorStatus(status=400), times=None)
    second.faults.add(ErrorStatus(status=400), times=None)

    answer = await chat(pair)

    assert is_broken(answer)
    assert b"stream_truncated" in answer.events[-1]
    assert len(answer.events) == 21


async def test_an_error_event_amid_the_stream_is_gone_on_from(pair, first):
    """An error of the endpoint inside its stream is a failure like a cut, and never shown."""
    whole = joined((await chat(pair)).events)
    first.faults.add(ErrorInside(after_events=9))

    answer = await chat(pair)

    assert joined(answer.events).text == whole.text
    assert b"Simulated failure" not in answer.body


async def test_a_refusal_amid_the_stream_is_the_last_word(pair, first, second):
    """An error event that refuses the call itself is not tried around at another endpoint."""
    first.faults.add(ErrorInside(after_events=9, status=400))

    answer = await chat(pair)

    assert is_broken(answer)
    assert "POST" not in {received[0] for received in second.received}


@pytest.mark.parametrize("fault", [DoneWithoutFinish(), StallAfterEvents(count=9)], ids=repr)
async def test_other_ways_to_break_are_gone_on_from(open_gateway, first, second, fault):
    """An end mark without a finish reason, and silence, break a stream too."""
    async with open_gateway(
        first, second, resilience=RESILIENCE, timeouts={"idle_s": 0.3}
    ) as gateway:
        whole = joined((await chat(gateway)).events)
        first.faults.add(fault)
        answer = await chat(gateway)

    found = joined(answer.events)
    assert found.text == whole.text
    assert (len(found.roles), len(found.finishes), answer.events[-1]) == (1, 1, DONE)


FORBIDDEN = [
    pytest.param({"n": 2}, id="two choices"),
    pytest.param({"logprobs": True, "top_logprobs": 2}, id="log probabilities"),
    pytest.param({"tools": [TOOL], "tool_choice": "required"}, id="a tool call"),
    pytest.param({"response_format": {"type": "json_object"}}, id="JSON"),
    pytest.param({"structured_outputs": {"regex": "a*"}}, id="structured"),
    pytest.param({"guided_json": {"type": "object"}}, id="guided"),
]


@pytest.mark.parametrize("fields", FORBIDDEN)
async def test_answers_of_another_kind_are_not_gone_on_from(pair, first, second, fields):
    """Where the rest cannot be had exactly, the client gets an error, and nobody else is asked."""
    first.faults.add(CutAfterEvents(count=3 if "n" in fields else 2))

    answer = await chat(pair, **fields)

    assert is_broken(answer)
    assert "POST" not in {received[0] for received in second.received}


async def test_the_client_can_forbid_to_go_on(pair, first, second):
    """With `x-first-continuation: off` a cut is an error."""
    first.faults.add(CutAfterEvents(count=9))

    answer = await chat(pair, {"x_first_continuation": "off"})

    assert is_broken(answer)
    assert "POST" not in {received[0] for received in second.received}


async def test_a_setting_forbids_to_go_on(open_gateway, first, second):
    """With `resilience.continuation: false` a cut is an error."""
    resilience = {**RESILIENCE, "continuation": False}
    async with open_gateway(first, second, resilience=resilience) as gateway:
        first.faults.add(CutAfterEvents(count=9))
        answer = await chat(gateway)

    assert is_broken(answer)


async def test_a_server_that_does_not_declare_it_is_not_asked_to_go_on(open_gateway, first, second):
    """With `continues_messages: false` a server takes whole calls only."""
    servers = [
        {"url": first.url, "cluster": "a"},
        {"url": second.url, "cluster": "b", "continues_messages": False},
    ]
    async with open_gateway(vllm={"servers": servers}, resilience=RESILIENCE) as gateway:
        first.faults.add(CutAfterEvents(count=9))
        answer = await chat(gateway)

    assert is_broken(answer)
    assert "POST" not in {received[0] for received in second.received}


async def test_another_model_never_goes_on(open_gateway, first):
    """A fallback model answers whole calls; it never ends the sentence of another one."""
    other = await opened("b", models=("other",))
    models = [{"name": "m", "fallbacks": ["other"]}]
    try:
        async with open_gateway(
            first, other, resilience=RESILIENCE, routing={"models": models}
        ) as gateway:
            first.faults.add(CutAfterEvents(count=9))
            answer = await chat(gateway)
    finally:
        await other.stop()

    assert is_broken(answer)
    assert "POST" not in {received[0] for received in other.received}


async def test_text_that_cannot_be_read_is_not_gone_on_from(pair, first):
    """After an event that is no JSON nobody knows what was said, so a cut is an error."""
    first.faults.add(BrokenEvent(after=3), times=1)
    whole = await chat(pair)
    script = b"".join(event + b"\n\n" for event in whole.events[:8])
    first.faults.add(raw_stream(script))

    answer = await chat(pair)

    assert is_broken(answer)


def raw_stream(body: bytes) -> Raw:
    """Return a fault that sends these events, and drops the connection."""
    from first_core.testing.simulator import Raw  # noqa: PLC0415 - here alone

    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    return Raw(script=(head + b"%x\r\n%b\r\n" % (len(body), body),))


async def test_going_on_waits_for_room(open_gateway, first, second, until):
    """Where the other endpoint is full, the broken stream waits in its queue as any call does."""
    release = asyncio.Event()
    endpoints = [{"cluster": "b", "max_in_flight": 1}]
    async with open_gateway(first, second, resilience=RESILIENCE, endpoints=endpoints) as gateway:
        whole = joined((await chat(gateway)).events)
        second.faults.add(StallAfterEvents(count=1, gate=release))
        body = {"model": "m", "messages": HI, "stream": True}
        path = "/resource_server/b/vllm/v1/chat/completions"
        busy = asyncio.create_task(gateway.post(path, body))
        await second.wait_running(1)
        first.faults.add(CutAfterEvents(count=20))
        broken = asyncio.create_task(chat(gateway))
        await until(lambda: len(gateway.gate("b").queue) == 1)
        release.set()
        answers = [joined((await task).events).text for task in (busy, broken)]

    assert answers == [whole.text, whole.text]


async def test_a_client_that_leaves_while_its_stream_goes_on_stops_it(pair, first, second, until):
    """Leaving after the cut stops the work at the endpoint that went on."""
    first.faults.add(CutAfterEvents(count=9))
    second.faults.add(StallAfterEvents(count=9))
    async with pair.dial() as client:
        body = {"model": "m", "messages": HI, "stream": True}
        client.send("POST", "/v1/chat/completions", json.dumps(body).encode())
        await client.head()
        await second.wait_running(1)

    await second.wait_aborts(1)
    await until(lambda: pair.gate("b").in_flight_count == 0)


async def test_the_openai_sdk_sees_one_stream(pair, first):
    """The SDK puts a broken answer together as a whole one, usage included."""
    async with openai.AsyncOpenAI(
        base_url=f"{pair.url}/v1", api_key="any", max_retries=0
    ) as client:
        whole = await client.chat.completions.create(model="m", messages=HI)
        for count in (1, 2, 17, 40, LAST_CUT):
            first.faults.add(CutAfterEvents(count=count))
            options = {"include_usage": True}
            async with client.chat.completions.stream(
                model="m", messages=HI, stream_options=options
            ) as stream:
                final = await stream.get_final_completion()
            await please(pair)

            assert final.choices[0].message.content == whole.choices[0].message.content
            assert final.choices[0].finish_reason == "stop"
            assert final.usage.completion_tokens == whole.usage.completion_tokens
            assert final.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_grpc_clients_are_told_that_it_went_on(pair, first):
    """The trailer counts the continuations and sums the usage."""
    whole = await grpc_stream(pair)
    first.faults.add(CutAfterEvents(count=20))

    found = await grpc_stream(pair)

    assert (whole[-1].trailer.continuation_count, found[-1].trailer.continuation_count) == (0, 1)
    assert usage_of(found[-1]) == usage_of(whole[-1])
    kinds = [kind for kind, _ in itertools.groupby(message.kind for message in found)]
    assert kinds == [
        inference_pb2.STREAM_EVENT_KIND_HEAD,
        inference_pb2.STREAM_EVENT_KIND_DATA,
        inference_pb2.STREAM_EVENT_KIND_TRAILER,
    ]


async def grpc_stream(gateway: Any) -> list[Any]:
    messages: list[Any] = []

    async def receive(message: Any) -> None:
        messages.append(message)

    body = json.dumps({"model": "m", "messages": HI, "stream": True}).encode()
    request = inference_pb2.StreamCallRequest(
        call=inference_pb2.CallRequest(operation=common_pb2.OPERATION_CHAT, body=body)
    )
    channel = connect(gateway.grpc_target)
    try:
        await RouterClient(channel).stream(request, receive)
    finally:
        await channel.close()
    return messages


def usage_of(message: Any) -> Usage:
    trailer = message.trailer
    return Usage(trailer.input_token_count, trailer.output_token_count)
