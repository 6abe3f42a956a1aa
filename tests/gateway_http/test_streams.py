from __future__ import annotations

import asyncio

import pytest

from first_core.errors import (
    BackendTimeoutError,
    EndpointColdError,
    InternalError,
    StreamTruncatedError,
)
from first_core.types import EndpointState
from first_gateway_http import sse

BODY = b'{"model":"m","stream":true}'
EVENTS = (b'data: {"a":"\xc3\xa9"}\n\n', b'data: {"b":1}\r\n\r\nevent: x\n\n', b"data: [DONE]\n\n")


@pytest.fixture
def chat(post):
    """A whole request for a stream."""
    return post("/v1/chat/completions", BODY, "x-request-id: r")


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
async def test_events_pass_untouched(raw, router, chat):
    """The client gets each message's bytes as they are, and nothing besides."""
    router.streams(*EVENTS)
    await raw.send(chat)
    answer = await raw.answer()

    assert answer.status == 200
    assert answer.body == b"".join(EVENTS)


async def test_stream_has_the_headers_of_one(raw, router, chat):
    """No cache and no buffering proxy may hold events back; the endpoint is told."""
    router.streams(*EVENTS)
    await raw.send(chat)
    headers = (await raw.answer()).headers

    assert headers["content-type"] == "text/event-stream"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-request-id"] == "r"
    assert headers["x-first-endpoint"] == "alpha/vllm/m"
    assert headers["x-first-attempts"] == "2"


async def test_each_event_leaves_at_once(raw, router, chat):
    """An event does not wait for the next one."""
    go_on = asyncio.Event()
    router.script = [router.head(), router.data(EVENTS[0]), go_on, router.data(EVENTS[1])]
    router.script.append(router.trailer())
    await raw.send(chat)
    await raw.reader.readuntil(b"\r\n\r\n")
    chunks = raw.chunks()
    first = await anext(chunks)
    go_on.set()
    rest = [chunk async for chunk in chunks]

    assert first == EVENTS[0]
    assert rest == [EVENTS[1]]


async def test_connection_serves_on_after_a_stream(raw, router, chat):
    """A stream ends cleanly, so its connection can be used again."""
    router.streams(*EVENTS)
    for _ in range(2):
        await raw.send(chat)
        answer = await raw.answer()

    assert answer.body == b"".join(EVENTS)


async def test_old_client_gets_the_stream_until_close(raw, router):
    """HTTP/1.0 knows no chunks: the end of the connection ends the answer."""
    router.streams(*EVENTS)
    head = f"POST /v1/chat/completions HTTP/1.0\r\ncontent-length: {len(BODY)}\r\n\r\n"
    await raw.send(head.encode() + BODY)
    await raw.reader.readuntil(b"\r\n\r\n")
    body = await raw.reader.read()

    assert body == b"".join(EVENTS)


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
async def test_error_before_the_first_event_is_a_status(raw, router, chat):
    """As long as no event came, even after the head, an error is an HTTP error."""
    router.script = [
        router.progress(),
        router.head(),
        EndpointColdError("wait", retry_after_s=4.2),
    ]
    await raw.send(chat)
    answer = await raw.answer()

    assert answer.status == 503
    assert answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/json"


OPENAI_EVENT = (
    b'data: {"error":{"message":"broke","type":"server_error","param":null,'
    b'"code":"stream_truncated"}}\n\n'
)
ANTHROPIC_EVENT = (
    b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"broke"},'
    b'"request_id":"r"}\n\n'
)
RESPONSES_EVENT = (
    b'event: error\ndata: {"type":"error","code":"stream_truncated","message":"broke",'
    b'"param":null,"sequence_number":8}\n\n'
)


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/chat/completions", OPENAI_EVENT),
        ("/v1/completions", OPENAI_EVENT),
        ("/v1/messages", ANTHROPIC_EVENT),
        ("/v1/responses", RESPONSES_EVENT),
    ],
)
async def test_error_after_the_first_event_is_an_event(raw, router, post, path, event):
    """A stream that breaks ends in the dialect's error event, without an end marker."""
    sent = b'data: {"sequence_number":7}\n\n'
    router.script = [router.head(), router.data(sent), StreamTruncatedError("broke")]
    await raw.send(post(path, BODY, "x-request-id: r"))
    answer = await raw.answer()

    assert answer.status == 200
    assert answer.body == sent + event


async def test_missing_trailer_is_an_error(raw, router, chat):
    """An answer that ends without the trailer is not complete, and the client hears that."""
    router.script = [router.head(), router.data(EVENTS[0])]
    await raw.send(chat)
    answer = await raw.answer()

    assert answer.body.startswith(EVENTS[0] + b'data: {"error":')
    assert b"stream_truncated" in answer.body


async def test_missing_everything_is_an_error(raw, router, chat):
    """An answer without any message is an HTTP error."""
    await raw.send(chat)

    assert (await raw.answer()).status == 500


@pytest.mark.parametrize("error", [InternalError("secret"), ValueError("secret")])
async def test_internal_error_in_a_stream_tells_the_request_id_only(raw, router, chat, error):
    """Whatever breaks inside, the client learns its request id and nothing else."""
    router.script = [router.head(), router.data(EVENTS[0]), error]
    await raw.send(chat)
    answer = await raw.answer()

    assert b"secret" not in answer.body
    assert b"request id: r" in answer.body


async def test_error_that_cannot_be_told_closes_the_connection(raw, router, chat, monkeypatch):
    """Where even the error event fails, the answer is visibly cut, never ended as if complete."""
    monkeypatch.setattr(sse, "failure_of", None)
    router.script = [router.head(), router.data(EVENTS[0]), StreamTruncatedError("broke")]
    await raw.send(chat)
    received = await raw.reader.read()

    assert received.endswith(EVENTS[0] + b"\r\n")


async def test_stream_error_ends_the_span(raw, router, chat, watch_spans):
    """A stream that breaks counts as failed, although its status was 200."""
    router.script = [router.head(), router.data(EVENTS[0]), BackendTimeoutError("idle")]
    await raw.send(chat)
    await raw.answer()

    [span] = watch_spans
    assert span.ends[0] == "BACKEND_TIMEOUT"


async def test_null_stream_answers_whole(raw, router, post):
    """`"stream": null` is how some clients say no."""
    await raw.send(post("/v1/chat/completions", b'{"model":"m","stream":null}'))

    assert (await raw.answer()).body == router.answer.body


async def test_slow_reader_slows_the_router(raw, router, chat):
    """What the client does not read is not taken from the router."""
    events = [router.data(b"data: " + b"x" * 100_000 + b"\n\n")] * 1000
    router.script = [router.head(), *events, router.trailer()]
    taken = 0

    async def count(step, context):
        nonlocal taken
        await context.write(step)
        taken += 1

    router._step = count
    await raw.send(chat)
    await router.started.wait()
    quiet_turns, seen = 0, taken
    while quiet_turns < 100:
        await asyncio.sleep(0)
        quiet_turns, seen = (quiet_turns + 1 if taken == seen else 0), taken

    assert 0 < taken < 200


@pytest.fixture
async def beating(start, dial, clock):
    """A raw connection to a front that beats each 10 s."""
    return await dial((await start(heartbeat_s=10.0)).url)


async def test_heartbeat_begins_the_stream(beating, router, chat, clock):
    """After the first silence the head leaves with a comment, and so on until an event."""
    go_on = asyncio.Event()
    router.script = [go_on, router.head(), router.data(EVENTS[0]), router.trailer()]
    await beating.send(chat)
    await _advance(clock, 10)
    await beating.reader.readuntil(b"\r\n\r\n")
    chunks = beating.chunks()
    comments = [await anext(chunks)]
    await _advance(clock, 10)
    comments.append(await anext(chunks))
    go_on.set()
    rest = [chunk async for chunk in chunks]

    assert comments == [b": waiting\n\n"] * 2
    assert rest == [EVENTS[0]]


async def _advance(clock, seconds):
    await clock.wait_timers()
    clock.advance(seconds)


async def test_heartbeat_ends_with_the_first_event(beating, router, chat, clock):
    """Between events there are no comments."""
    go_on = asyncio.Event()
    router.script = [router.head(), router.data(EVENTS[0]), go_on, router.trailer()]
    await beating.send(chat)
    await beating.reader.readuntil(EVENTS[0])
    waiting = clock.timer_count
    go_on.set()

    assert waiting == 0


async def test_error_after_a_heartbeat_is_an_event(beating, router, chat, clock):
    """Once a comment was sent the status is gone."""
    go_on = asyncio.Event()
    router.script = [go_on, EndpointColdError("cold")]
    await beating.send(chat)
    await _advance(clock, 10)
    await beating.reader.readuntil(b": waiting")
    go_on.set()
    rest = await beating.reader.readuntil(b"0\r\n\r\n")

    assert b'data: {"error":{"message":"cold"' in rest


async def test_error_before_a_heartbeat_is_a_status(beating, router, chat):
    """A heartbeat that is on does not change quick errors."""
    router.script = [EndpointColdError("cold")]
    await beating.send(chat)

    assert (await beating.answer()).status == 503


async def test_progress_becomes_comments(beating, router, chat):
    """With the heartbeat on, a person who watches sees why it takes long."""
    starting = router.progress(state=EndpointState.STARTING, queue_position=3)
    starting.progress.expected_wait.FromSeconds(240)
    router.script = [starting, router.progress(), router.data(EVENTS[0]), router.trailer()]
    await beating.send(chat)
    answer = await beating.answer()

    comments = b": state=starting position=3 eta_s=240\n\n: state=unknown\n\n"
    assert answer.body == comments + EVENTS[0]


async def test_progress_is_silent_without_heartbeat(raw, router, chat):
    """With the heartbeat off, comments would take the status away."""
    router.script = [router.progress(queue_position=1), router.data(EVENTS[0]), router.trailer()]
    await raw.send(chat)

    assert (await raw.answer()).body == EVENTS[0]


async def test_progress_is_told_to_who_would_wait(raw, router, chat):
    """A client that says how long it would wait is told why it does, without any heartbeat."""
    waiting = router.progress(state=EndpointState.STARTING, queue_position=3)
    router.script = [waiting, router.head(), router.data(EVENTS[0]), router.trailer()]
    await raw.send(chat.replace(b"\r\n", b"\r\nx-first-wait: 60\r\n", 1))
    answer = await raw.answer()

    assert answer.body == b": state=starting position=3\n\n" + EVENTS[0]
