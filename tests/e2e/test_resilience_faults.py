"""Each fault of an upstream is rescued in order: elsewhere, once more, by a fallback model."""

from __future__ import annotations

import json
from dataclasses import replace
from email.utils import format_datetime, formatdate
from typing import TYPE_CHECKING, Any

import pytest

from first_core.testing.clock import FakeClock
from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    ErrorInside,
    ErrorStatus,
    Garbage,
    NoDone,
    Raw,
    Refuse,
    SimulatorSettings,
    StallAfterHead,
    StallBeforeHead,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DONE = b"data: [DONE]"
QUICK = {"max_attempts": 4, "same_endpoint_wait_s": 0.01}
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
HTTP_DATE = "Sun, 06 Nov 2050 08:49:37 GMT"

NO_ANSWER = [
    Refuse(),
    Refuse(reset=False),
    StallBeforeHead(),
    StallAfterHead(),
    ErrorStatus(status=429),
    ErrorStatus(status=429, headers={"retry-after": "7"}),
    ErrorStatus(status=429, headers={"retry-after": HTTP_DATE}),
    ErrorStatus(status=500),
    ErrorStatus(status=502, content_type="text/html", body=b"<p>Bad Gateway"),
    ErrorStatus(status=503),
    ErrorStatus(status=503, headers={"retry-after": "7"}),
    ErrorStatus(status=529),
    ErrorInside(),
    ErrorInside(status=429),
    Garbage(),
    Garbage(kind="html"),
    Garbage(kind="invalid_json"),
    CutAfterBytes(count=0),
    CutAfterBytes(count=0, reset=True),
    CutAfterBytes(count=0, clean=True),
    CutAfterBytes(count=60),
    CutAfterBytes(count=60, reset=True),
    CutAfterBytes(count=60, clean=True),
]


def text_of(answer: Any) -> str:
    """Return the text of an answer, streamed or not."""
    if answer.media_type == "application/json":
        return str(answer.json()["choices"][0]["message"]["content"])
    events = [json.loads(event[6:]) for event in answer.events if event != DONE]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
async def pair(open_gateway: Any, sim: Any, other_sim: Any) -> AsyncIterator[Any]:
    """A gateway before two servers of the model, as it is set by default but for short bounds."""
    bounds = {"first_chunk_s": 0.3}
    async with open_gateway(sim, other_sim, resilience=QUICK, timeouts=bounds) as gateway:
        yield gateway


@pytest.fixture
async def single(open_gateway: Any, sim: Any) -> AsyncIterator[Any]:
    """The same before one server."""
    bounds = {"first_chunk_s": 0.3}
    async with open_gateway(sim, resilience=QUICK, timeouts=bounds) as gateway:
        yield gateway


@STREAMED
@pytest.mark.parametrize("fault", NO_ANSWER, ids=repr)
async def test_what_is_no_answer_is_answered_elsewhere(pair, sim, other_sim, fault, stream):
    """Before the first event any failure of a server costs its client nothing but time."""
    whole = text_of(await pair.chat(stream=stream))
    # A kept connection that is closed gets one replacement within the attempt.
    sim.faults.add(fault, times=2 if isinstance(fault, Refuse) else 1)

    answer = await pair.chat(stream=stream)

    assert (answer.status, text_of(answer)) == (200, whole)
    assert answer.headers["x-first-endpoint"] == "b/vllm/m"
    assert answer.headers["x-first-attempts"] == "2"
    assert len(other_sim.posts) == 1


@STREAMED
async def test_a_server_that_does_not_listen_is_passed_over(pair, sim, stream):
    """A refused connection is answered elsewhere, before anybody knows that the server is down."""
    await sim.pause_listening()

    answer = await pair.chat(stream=stream)

    assert (answer.status, answer.headers["x-first-endpoint"]) == (200, "b/vllm/m")


@STREAMED
@pytest.mark.parametrize(
    "fault", [ErrorStatus(status=500), ErrorStatus(status=503), Refuse(), Garbage()], ids=repr
)
async def test_the_only_server_is_asked_again(single, sim, fault, stream):
    """With no other endpoint the same one gets the call once more, after a short wait."""
    # A kept connection that is closed gets one replacement within the first attempt.
    sim.faults.add(fault, times=3 if isinstance(fault, Refuse) else 2)

    answer = await single.chat(stream=stream)

    assert (answer.status, answer.headers["x-first-attempts"]) == (200, "3")


@pytest.mark.parametrize("wait", ["0", formatdate(0, usegmt=True)], ids=["seconds", "date"])
async def test_a_short_retry_after_is_waited_for(single, sim, wait):
    """A 429 that asks for little patience is gone by the time it is asked again."""
    sim.faults.add(ErrorStatus(status=429, headers={"retry-after": wait}))

    answer = await single.chat()

    assert (answer.status, answer.headers["x-first-attempts"]) == (200, "2")


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_a_long_retry_after_is_told_and_obeyed(open_gateway, sim, form):
    """The client hears how long, and until then nobody asks the server again."""
    clock = FakeClock()
    async with open_gateway(sim, resilience=QUICK, clock=clock) as gateway:
        date = format_datetime(_utc(clock.time() + 30), usegmt=True)
        wait = "30" if form == "seconds" else date
        sim.faults.add(ErrorStatus(status=429, headers={"retry-after": wait}))
        told = await gateway.chat()
        clock.advance(10)
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        still = await gateway.post("/v1/chat/completions", body, x_first_wait="0")
        asked_count = len(sim.posts)
        clock.advance(21)
        after = await gateway.chat()

    assert (told.status, told.headers["retry-after"]) == (429, "30")
    assert told.headers["x-first-attempts"] == "1"
    assert (still.status, still.headers["retry-after"]) == (429, "20")
    assert asked_count == 1
    assert after.status == 200


def _utc(time_s: float) -> Any:
    from datetime import UTC, datetime  # noqa: PLC0415 - here alone

    return datetime.fromtimestamp(time_s, tz=UTC)


@STREAMED
@pytest.mark.parametrize("fault", [StallBeforeHead(), StallAfterHead()], ids=repr)
async def test_a_silent_server_is_not_asked_again(single, sim, fault, stream):
    """Who did not answer in time works on the call still; asking again would double that."""
    sim.faults.add(fault)

    answer = await single.chat(stream=stream)

    assert (answer.status, answer.headers["x-first-attempts"]) == (504, "1")
    assert len(sim.posts) == 1


@STREAMED
async def test_where_all_are_away_the_client_is_told_so(pair, sim, other_sim, stream):
    """Nobody listens: 503, after each was tried, with who was asked last."""
    await sim.pause_listening()
    await other_sim.pause_listening()

    answer = await pair.chat(stream=stream)

    assert answer.status == 503
    assert answer.json()["error"]["code"] in {"backend_unavailable", "endpoint_cold"}


@STREAMED
async def test_a_refusal_for_content_is_never_tried_elsewhere(open_gateway, sim, other_sim, stream):
    """What one model refuses to say is put to no other endpoint and to no fallback."""
    said = b'{"error":{"message":"Blocked","type":"invalid_request_error","param":"prompt",'
    said += b'"code":"content_filter"}}'
    models = [{"name": "m", "fallbacks": ["org/lora"]}]
    async with open_gateway(
        sim, other_sim, resilience=QUICK, routing={"models": models}
    ) as gateway:
        sim.faults.add(ErrorStatus(status=400, body=said))
        answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.body) == (400, said)
    assert answer.headers["x-first-attempts"] == "1"
    assert other_sim.posts == []


LONG = "many words " * 60


@pytest.fixture
async def small(sim: Any) -> AsyncIterator[Any]:
    """A server of the model `small`, whose window holds 100 tokens."""
    settings = SimulatorSettings(models=("small",), max_model_len=100, seed=7)
    async with type(sim)(settings) as simulator:
        yield simulator


@STREAMED
async def test_a_prompt_that_is_too_long_goes_to_a_larger_model(open_gateway, small, sim, stream):
    """A configured fallback with a larger window answers, and says that it was it."""
    models = [{"name": "small", "fallbacks": ["m"]}]
    async with open_gateway(small, sim, resilience=QUICK, routing={"models": models}) as gateway:
        answer = await gateway.chat(LONG, model="small", stream=stream)

    assert answer.status == 200
    assert answer.headers["x-first-endpoint"] == "b/vllm/m"
    assert b'"model":"m"' in answer.body
    assert len(small.posts) == 1


@STREAMED
@pytest.mark.parametrize("fallbacks", [[], ["same"]], ids=["none", "no larger"])
async def test_a_prompt_that_is_too_long_for_all_is_refused(
    open_gateway, sim, small, fallbacks, stream
):
    """Without a larger fallback the server's own refusal passes, after one attempt."""
    models = [{"name": "small", "fallbacks": fallbacks}]
    same = replace(small.settings, models=("same",))
    async with (
        type(sim)(same) as other,
        open_gateway(small, other, resilience=QUICK, routing={"models": models}) as gateway,
    ):
        answer = await gateway.chat(LONG, model="small", stream=stream)
        posts = [*small.posts, *other.posts]

    assert answer.status == 400
    assert "maximum context length" in answer.json()["error"]["message"]
    assert len(posts) == 1


@STREAMED
async def test_a_fallback_model_answers_when_all_servers_fail(open_gateway, small, sim, stream):
    """The answer's `model` says who answered."""
    models = [{"name": "small", "fallbacks": ["m"]}]
    async with open_gateway(small, sim, resilience=QUICK, routing={"models": models}) as gateway:
        small.faults.add(ErrorStatus(status=500), times=None)
        answer = await gateway.chat(model="small", stream=stream)

    assert (answer.status, answer.headers["x-first-endpoint"]) == (200, "b/vllm/m")
    assert b'"model":"m"' in answer.body


@STREAMED
async def test_the_last_server_is_never_shut_out(single, sim, stream):
    """However often the only server failed, the first call after that is answered by it."""
    sim.faults.add(ErrorStatus(status=500), times=None)
    failed = [await single.chat(stream=stream) for _ in range(6)]
    sim.faults.clear()

    answer = await single.chat(stream=stream)

    assert {each.status for each in failed} == {503}
    assert (answer.status, answer.headers["x-first-attempts"]) == (200, "1")


async def test_a_server_that_flaps_answers_every_call(single, sim):
    """Each second call fails at the only server: asked once more, each one is answered."""
    statuses = []
    for _ in range(15):
        sim.faults.add(ErrorStatus(status=500))
        statuses.append((await single.chat(stream=True)).status)

    assert set(statuses) == {200}


@STREAMED
async def test_a_reset_of_a_kept_connection_costs_nothing(single, sim, stream):
    """A connection that dies under a request, before a byte of the answer, is replaced."""
    await single.chat(stream=stream)
    for connection in list(sim._connections):
        connection.reset()

    answer = await single.chat(stream=stream)

    assert answer.status == 200
    assert len(sim.posts) == 2


async def test_an_end_mark_that_is_missing_is_added(single, sim):
    """A stream whose finish reason was seen is whole, whatever its server forgot."""
    sim.faults.add(NoDone())

    answer = await single.chat(stream=True)

    assert answer.events[-1] == DONE
    assert (await single.watch.wait(1))[0].error_reason == ""


async def test_an_error_after_the_finish_hurts_nothing(single, sim):
    """Once the finish reason is out the answer is whole, so a late error is not passed on."""
    whole = await single.chat(stream=True)
    sim.faults.add(ErrorInside(after_events=len(whole.events) - 1))

    answer = await single.chat(stream=True)

    assert text_of(answer) == text_of(whole)
    assert answer.events[-1] == DONE


async def test_a_second_end_is_not_passed_on(single, sim):
    """What a server says after its end mark reaches nobody."""
    whole = await single.chat(stream=True)
    body = whole.body + whole.events[-2] + b"\n\n" + DONE + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    sim.faults.add(Raw(script=(head % len(body) + body,)))

    answer = await single.chat(stream=True)

    assert answer.events == whole.events


async def test_a_broken_event_does_not_break_its_stream(single, sim):
    """An event that is no JSON passes as it came, and the stream is whole."""
    whole = text_of(await single.chat(stream=True))
    sim.faults.add(BrokenEvent(after=4))

    answer = await single.chat(stream=True)

    good = [event for event in answer.events if event != BrokenEvent().event.strip()]
    assert len(good) == len(answer.events) - 1
    assert "".join(_texts(good)) == whole


def _texts(events: list[bytes]) -> list[str]:
    found = [json.loads(event[6:])["choices"] for event in events if event != DONE]
    return [choices[0]["delta"].get("content") or "" for choices in found if choices]


async def test_attempts_are_bounded(pair, sim, other_sim):
    """A call that fails everywhere makes `max_attempts` attempts, and tells so."""
    for server in (sim, other_sim):
        server.faults.add(ErrorStatus(status=500), times=None)

    answer = await pair.chat()

    assert (answer.status, answer.headers["x-first-attempts"]) == (503, "4")
    assert len(sim.posts) + len(other_sim.posts) == 4


async def test_a_cut_with_one_server_is_an_error(single, sim):
    """With nobody to go on, a stream that breaks ends in an error event and no end mark."""
    sim.faults.add(CutAfterEvents(count=5))

    answer = await single.chat(stream=True)

    assert b'"error"' in answer.events[-1]
    assert DONE not in answer.events
