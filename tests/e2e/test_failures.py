"""What goes wrong at an upstream is told in the client's dialect, or tried elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    DoneWithoutFinish,
    ErrorInside,
    ErrorStatus,
    Garbage,
    LengthMismatch,
    NoDone,
    Refuse,
    StallAfterEvents,
    StallAfterHead,
    StallBeforeHead,
)

DONE = b"data: [DONE]"
REFUSAL = b'{"error":{"message":"No such thing","type":"BadRequestError","param":"top","code":400}}'
ROUTES = {
    "openai": ("/v1/chat/completions", {"model": "m", "messages": []}),
    "anthropic": ("/v1/messages", {"model": "m", "max_tokens": 30}),
}
DIALECTS = pytest.mark.parametrize("dialect", ["openai", "anthropic"])
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])

BEFORE_THE_FIRST_BYTE = [
    pytest.param((Refuse(), 503), id="reset"),
    pytest.param((Refuse(reset=False), 503), id="closed"),
    pytest.param((StallBeforeHead(), 504), id="no head"),
    pytest.param((StallAfterHead(), 504), id="no body"),
    pytest.param((ErrorStatus(status=500), 503), id="500"),
    pytest.param((ErrorStatus(status=502, content_type="text/html", body=b"<p>"), 503), id="502"),
    pytest.param((ErrorStatus(status=503), 503), id="503"),
    pytest.param((ErrorStatus(status=429), 429), id="429"),
    pytest.param((ErrorStatus(status=401), 503), id="401"),
    pytest.param((ErrorStatus(status=307, headers={"location": "/x"}), 503), id="redirect"),
    pytest.param((ErrorInside(), 503), id="error in a 200"),
    pytest.param((ErrorInside(status=400), 400), id="refusal in a 200"),
    pytest.param((ErrorInside(status=429), 429), id="limit in a 200"),
    pytest.param((Garbage(), 503), id="no HTTP"),
    pytest.param((Garbage(kind="html"), 503), id="a page"),
    pytest.param((Garbage(kind="invalid_json"), 503), id="broken JSON"),
    pytest.param((CutAfterBytes(count=0), 503), id="cut at once"),
    pytest.param((CutAfterBytes(count=0, reset=True), 503), id="reset at once"),
    pytest.param((CutAfterBytes(count=0, clean=True), 503), id="empty"),
    pytest.param((CutAfterBytes(count=20), 503), id="cut amid the first event"),
    pytest.param((CutAfterBytes(count=20, clean=True), 503), id="ended amid the first event"),
]


def call_of(dialect: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
    path, body = ROUTES[dialect]
    return path, {**body, "messages": [{"role": "user", "content": "hi"}], "stream": stream}


def is_error(dialect: str, document: Any) -> bool:
    """Tell whether it is an error as this dialect's clients know it."""
    error = document["error"]
    told = isinstance(error["message"], str) and error["message"] and isinstance(error["type"], str)
    return bool(told) and (dialect == "openai" or document["type"] == "error")


def data_of(event: bytes) -> Any:
    return json.loads(event.split(b"data: ", 1)[1])


@pytest.fixture
async def hasty(open_gateway, sim):
    """A gateway that waits half a second for the first byte, and as long between bytes."""
    async with open_gateway(sim, timeouts={"first_chunk_s": 0.4, "idle_s": 0.4}) as opened:
        yield opened


@DIALECTS
@STREAMED
@pytest.mark.parametrize("failure", BEFORE_THE_FIRST_BYTE)
async def test_a_failure_before_the_first_byte_is_a_status(hasty, sim, dialect, stream, failure):
    """The client gets an HTTP status and its dialect's error body, streamed or not."""
    fault, status = failure
    sim.faults.add(fault, times=None)

    answer = await hasty.post(*call_of(dialect, stream=stream))

    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert is_error(dialect, answer.json())
    assert b"127.0.0.1" not in answer.body


@STREAMED
async def test_a_server_that_is_away_is_503(gateway, sim, stream):
    """Nobody listens: 503."""
    await sim.pause_listening()

    answer = await gateway.chat(stream=stream)

    assert answer.status == 503


@STREAMED
@DIALECTS
@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_reaches_the_client(gateway, sim, dialect, status, stream):
    """The upstream's `Retry-After` passes with its 429 and 503."""
    sim.faults.add(ErrorStatus(status=status, headers={"retry-after": "7"}))

    answer = await gateway.post(*call_of(dialect, stream=stream))

    assert (answer.status, answer.headers["retry-after"]) == (status, "7")


@STREAMED
@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 422, 451])
async def test_refusals_pass_unchanged(gateway, sim, other_sim, status, stream):
    """An upstream's 4xx keeps its status and each byte of its body, after one attempt."""
    sim.faults.add(ErrorStatus(status=status, body=REFUSAL))

    answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.body) == (status, REFUSAL)
    assert len(sim.posts) == 1


async def test_refusals_in_another_shape_are_told_in_the_dialect(gateway, sim):
    """An OpenAI-shaped refusal of a Messages call keeps status and message in Anthropic's shape."""
    sim.faults.add(ErrorStatus(status=400, body=REFUSAL))

    answer = await gateway.post(*call_of("anthropic", stream=False))

    assert answer.status == 400
    assert is_error("anthropic", answer.json())
    assert answer.json()["error"]["message"] == "No such thing"


AMID = [
    pytest.param(CutAfterEvents(count=3), id="closed"),
    pytest.param(CutAfterEvents(count=3, reset=True), id="reset"),
    pytest.param(CutAfterEvents(count=3, clean=True), id="ended"),
    pytest.param(CutAfterBytes(count=700), id="inside an event"),
    pytest.param(CutAfterBytes(count=700, clean=True), id="ended inside an event"),
    pytest.param(CutInsideCharacter(), id="inside a character"),
    pytest.param(CutInsideCharacter(clean=True), id="ended inside a character"),
    pytest.param(DoneWithoutFinish(), id="end mark without finish"),
    pytest.param(ErrorInside(after_events=5), id="error event"),
    pytest.param(StallAfterEvents(count=3), id="silence"),
]


@DIALECTS
@pytest.mark.parametrize("fault", AMID)
async def test_a_truncated_stream_ends_in_an_error_event(hasty, sim, dialect, fault):
    """What breaks off after the first event ends in one error event and no end mark."""
    if isinstance(fault, DoneWithoutFinish) and dialect == "anthropic":
        pytest.skip("message_stop is itself the proof that the answer is complete")
    path, body = call_of(dialect, stream=True)
    whole = await hasty.post(path, body, x_request_id="same")
    sim.faults.add(fault)

    answer = await hasty.post(path, body, x_request_id="same")

    assert answer.status == 200
    *good, last = answer.events
    assert good
    assert [e for e in good if e.startswith(b"event: error") or b'"error"' in e] == []
    assert is_error(dialect, data_of(last))
    assert DONE not in answer.body
    assert b"message_stop" not in answer.body
    assert whole.timeless.startswith(answer.timeless.removesuffix(last + b"\n\n"))
    assert b"Simulated" not in b"".join(good)


@DIALECTS
async def test_a_framing_error_after_the_end_hurts_nothing(gateway, sim, dialect):
    """Once the answer is complete, how its connection ends does not matter."""
    path, body = call_of(dialect, stream=True)
    sim.faults.add(LengthMismatch(by=10))

    answer = await gateway.post(path, body)

    assert b"error" not in answer.body
    assert DONE in answer.events or b"event: message_stop" in answer.body


async def test_a_missing_end_mark_is_added(gateway, sim):
    """A chat stream that is complete but for `[DONE]` gets it and is a success."""
    whole = await gateway.chat(stream=True)
    sim.faults.add(NoDone())

    answer = await gateway.chat(stream=True)

    assert len(answer.events) == len(whole.events)
    assert answer.events[-1] == DONE


async def test_a_missing_message_stop_is_a_truncation(gateway, sim):
    """Anthropic's own end event is the proof of a complete answer; without it there is an error."""
    sim.faults.add(NoDone())

    answer = await gateway.post(*call_of("anthropic", stream=True))

    assert is_error("anthropic", data_of(answer.events[-1]))


async def test_one_unfinished_choice_of_two_is_a_truncation(gateway, sim):
    """Each choice needs its own finish reason."""
    whole = await gateway.chat(stream=True, n=2)
    ends = [n for n, event in enumerate(whole.events) if b'"finish_reason":"' in event]
    sim.faults.add(CutAfterEvents(count=ends[0] + 1, clean=True))

    answer = await gateway.chat(stream=True, n=2)

    assert is_error("openai", data_of(answer.events[-1]))


async def test_a_broken_event_amid_a_good_stream_passes(gateway, sim):
    """An event that is no JSON goes on as it came, and the stream ends well."""
    sim.faults.add(BrokenEvent(after=2))

    answer = await gateway.chat(stream=True)

    assert answer.events[2] == BrokenEvent().event.strip()
    assert answer.events[-1] == DONE


@STREAMED
async def test_a_failed_call_goes_to_the_next_endpoint(open_gateway, sim, other_sim, stream):
    """What fails before the first byte is answered elsewhere; headers tell who, and how often."""
    async with open_gateway(sim, other_sim) as gateway:
        sim.faults.add(ErrorStatus(status=500))
        answer = await gateway.chat(stream=stream)

    assert answer.status == 200
    assert answer.headers["x-first-attempts"] == "2"
    assert answer.headers["x-first-endpoint"] == "b/vllm/m"


@STREAMED
@pytest.mark.parametrize("failure", BEFORE_THE_FIRST_BYTE)
async def test_every_failure_that_is_not_the_callers_goes_on(
    open_gateway, sim, other_sim, stream, failure
):
    """All but the upstream's refusal of this very request is tried on the next endpoint."""
    fault, status = failure
    async with open_gateway(sim, other_sim, timeouts={"first_chunk_s": 0.3}) as gateway:
        sim.faults.add(fault, times=None)
        answer = await gateway.chat(stream=stream)

    assert answer.status == (400 if status == 400 else 200)
    assert (other_sim.abort_count, len(other_sim.posts)) == (0, 0 if status == 400 else 1)


async def test_nothing_is_tried_again_after_the_first_byte(open_gateway, sim, other_sim):
    """A stream that has begun is never begun again elsewhere."""
    async with open_gateway(sim, other_sim) as gateway:
        sim.faults.add(CutAfterEvents(count=2))
        answer = await gateway.chat(stream=True)

    assert is_error("openai", data_of(answer.events[-1]))
    assert other_sim.posts == []


@STREAMED
async def test_where_all_fail_the_last_failure_is_told(open_gateway, sim, other_sim, stream):
    """With no endpoint left, the client hears what the last one did."""
    async with open_gateway(sim, other_sim) as gateway:
        sim.faults.add(ErrorStatus(status=500))
        other_sim.faults.add(ErrorStatus(status=429, headers={"retry-after": "3"}))
        answer = await gateway.chat(stream=stream)

    assert (answer.status, answer.headers["retry-after"]) == (429, "3")


@pytest.mark.parametrize("path", ["v1/embeddings", "v1/rerank", "v1/score", "v1/responses"])
async def test_errors_inside_other_operations_are_errors(gateway, sim, path):
    """A 200 that holds an error is no answer, whatever was asked."""
    sim.faults.add(ErrorInside())
    body = {"model": "m", "input": "x", "query": "x", "documents": ["x"], "text_1": "x"}

    answer = await gateway.post(f"/{path}", {**body, "text_2": "x"})

    assert answer.status == 503


async def test_a_key_of_the_gateway_that_is_refused_is_not_the_clients_fault(open_gateway, sim):
    """The upstream's 401 concerns our credential: 503, and nothing of it is told."""
    async with open_gateway(sim) as gateway:
        sim.faults.add(ErrorStatus(status=401, body=b'{"error":"bad key sk-secret-of-ours"}'))
        answer = await gateway.chat()

    assert answer.status == 503
    assert b"sk-secret" not in answer.body
