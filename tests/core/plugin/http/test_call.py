"""Whole answers, over both carriers."""

from __future__ import annotations

import asyncio

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    InvalidRequestError,
    OverloadedError,
)
from first_core.testing.simulator import (
    CutAfterBytes,
    Garbage,
    LengthMismatch,
    Raw,
    SplitWrites,
    StallAfterHead,
    StallBeforeHead,
)
from first_core.types import Operation

BODY = b'{ "model":"sim-model","messages":[{"role":"user","content":"\xc3\xa9"}], "unknown": 1.50 }'
ANSWER = b'{"choices": [],  "n": 1.0}'


def answered(body: bytes = ANSWER, *, head: bytes = b"", end: str = "keep") -> Raw:
    text = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + head
    return Raw(
        script=(text + b"content-length: %d\r\n\r\n%b" % (len(body), body),),
        end=end,
    )


async def test_call_sends_the_body_unchanged(call, sim):
    """The upstream gets the bytes of the call."""
    await call(BODY)

    assert sim.received[-1][3] == BODY


async def test_call_returns_the_answer_unchanged(call, sim):
    """The caller gets the bytes of the upstream, and their type."""
    sim.faults.add(answered())

    answer = await call()

    assert (answer.body, answer.content_type) == (ANSWER, "application/json")


async def test_call_sends_named_headers_only(call, sim):
    """The upstream sees what call and backend name, what HTTP needs, and nothing else."""
    await call(headers={"x-request-id": "r1"}, own={"authorization": "Bearer k"})

    headers = sim.received[-1][2]
    assert set(headers) == {
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-request-id",
    }
    assert headers["user-agent"].startswith("first-gateway/")
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("name", ["content-length", "transfer-encoding", "host", "cookie", "te"])
async def test_call_keeps_framing_headers_to_itself(call, sim, name):
    """A header that frames the message is never taken from a call, whatever is allow-listed."""
    await call(BODY, headers={name: "7"})

    assert sim.received[-1][2].get(name) != "7"
    assert sim.received[-1][3] == BODY


async def test_call_lets_the_backend_win_over_forwarded_headers(call, sim):
    """A client cannot replace the gateway's credential."""
    await call(headers={"authorization": "Bearer client"}, own={"authorization": "Bearer ours"})

    assert sim.received[-1][2]["authorization"] == "Bearer ours"


async def test_call_lets_the_backend_name_itself(call, sim):
    """A backend may replace what we say by default, but not how bodies are encoded."""
    await call(own={"user-agent": "mine", "accept": "text/x", "accept-encoding": "gzip"})

    headers = sim.received[-1][2]
    assert (headers["user-agent"], headers["accept"]) == ("mine", "text/x")
    assert headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("value", ["a\r\nx-evil: 1", "a\nb", "a\0b", "a\rb"])
async def test_call_refuses_a_header_that_ends_its_line(call, sim, value):
    """A value with a line break is the caller's fault, and nothing is sent."""
    with pytest.raises(InvalidRequestError):
        await call(headers={"x-request-id": value})

    assert sim.received_count == 0


async def test_call_sends_large_bodies_whole(call, sim):
    """A body of some megabytes arrives as it was."""
    body = b'{"messages": [{"role": "user", "content": "' + b"a" * 3_000_000 + b'"}]}'
    sim.faults.add(answered())

    await call(body)

    assert sim.received[-1][3] == body


async def test_call_keeps_its_connection(call, sim):
    """Calls after each other share one connection."""
    for _ in range(3):
        await call()

    assert sim.connection_count == 1


async def test_call_drops_its_connection_when_told_to(call, sim):
    """`Connection: close` is obeyed, and the next call opens another one."""
    sim.faults.add(answered(head=b"connection: close\r\n"))

    await call()
    await call()

    assert sim.received_count == 2


async def test_call_never_reuses_a_connection_with_bytes_left_on_it(call, sim):
    """What follows an answer is not taken for the next one."""
    sim.faults.add(
        Raw(
            script=(
                b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n" + b'{"choices":[]}',
                b'HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{"choices":["forged"]}',
            ),
            end="hold",
        )
    )
    await call()

    answer = await call()

    assert b"forged" not in answer.body


async def test_call_is_repeated_where_an_idle_connection_was_closed(call, sim):
    """A kept connection that closes without a byte costs the caller nothing."""
    await call()
    sim.faults.add(Raw(script=(), end="close"))

    answer = await call()

    assert b"choices" in answer.body
    assert sim.received_count == 3


async def test_call_is_not_repeated_where_the_upstream_had_time_to_begin(call, sim, clock):
    """A kept connection that closes long after the request was not closed while idle."""
    await call()
    gate = asyncio.Event()
    sim.faults.add(Raw(script=(gate,), end="close"))
    task = asyncio.create_task(call())
    await sim.wait_received(2)
    clock.advance(2.0)
    gate.set()

    with pytest.raises(BackendUnavailableError) as caught:
        await task

    assert caught.value.work_started
    assert sim.received_count == 2


async def test_call_is_not_repeated_on_a_new_connection(call, sim):
    """A new connection that closes has not idled: the upstream may have begun."""
    sim.faults.add(Raw(script=(), end="close"))

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert caught.value.work_started
    assert sim.received_count == 1


async def test_call_is_not_repeated_once_the_head_has_come(call, sim):
    """After a first byte of the answer the upstream has begun."""
    await call()
    sim.faults.add(CutAfterBytes(count=5))

    with pytest.raises(BackendUnavailableError):
        await call()

    assert sim.received_count == 2


async def test_call_tells_that_nothing_was_started_where_nobody_listens(call, sim):
    """A refused connection is certain to have started nothing."""
    await sim.pause_listening()

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert not caught.value.work_started


async def test_call_maps_a_name_that_nobody_knows(connect, make_call):
    """A host without an address starts no work. The name is longer than DNS allows."""
    upstream = await connect(f"http://{'.'.join(['a' * 60] * 5)}:1")

    with pytest.raises(BackendUnavailableError) as caught:
        await upstream.call("v1/chat/completions", make_call(), headers={})

    assert not caught.value.work_started


@pytest.mark.parametrize(
    "fault",
    [
        Garbage(kind="not_http"),
        Garbage(kind="html"),
        Garbage(kind="invalid_json"),
        CutAfterBytes(count=20),
        CutAfterBytes(count=20, clean=True),
        CutAfterBytes(count=20, reset=True),
        LengthMismatch(by=10),
        LengthMismatch(by=-10),
        answered(b""),
        answered(ANSWER, head=b"content-encoding: gzip\r\n"),
        Raw(script=(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000,), end="hold"),
        Raw(script=(b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",)),
        Raw(script=(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",), end="hold"),
    ],
    ids=lambda fault: f"{type(fault).__name__}-{str(fault)[:40]}",
)
async def test_call_never_takes_a_broken_answer_for_one(call, sim, fault):
    """What is cut short, no JSON or no HTTP ends in an error."""
    sim.faults.add(fault)

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert caught.value.work_started


async def test_call_takes_a_transcription_that_is_text(call, sim):
    """A transcription may be plain text."""
    text = b"1\n00:00 --> 00:01\nHello\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
    sim.faults.add(
        Raw(script=(head + b"content-length: %d\r\n\r\n%b" % (len(text), text),), end="keep")
    )

    answer = await call(operation=Operation.TRANSCRIPTION, content_type="multipart/form-data")

    assert (answer.body, answer.content_type) == (text, "text/plain")


@pytest.mark.parametrize("body", [b'[{"score": 1}]', b'{"choices": [], "logprob": -Infinity}'])
async def test_call_takes_all_json_that_servers_send(call, sim, body):
    """Lists are answers, and so are the numbers that Python writes beyond the standard."""
    sim.faults.add(answered(body))

    answer = await call()

    assert answer.body == body


@pytest.mark.parametrize(
    "script",
    [
        b"HTTP/1.1 200 OK\r\n\r\n" + ANSWER,
        b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + ANSWER,
    ],
)
async def test_call_takes_an_answer_that_ends_with_its_connection(call, sim, script):
    """Without length and chunks the end of the connection is the end of the body."""
    sim.faults.add(Raw(script=(script,)))

    answer = await call()

    assert answer.body == ANSWER


async def test_call_passes_over_interim_answers(call, sim):
    """100 and 103 are no answers."""
    sim.faults.add(
        Raw(
            script=(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
                b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER),
            ),
            end="keep",
        )
    )

    answer = await call()

    assert answer.body == ANSWER


async def test_call_reads_chunks_with_extensions_and_trailers(call, sim):
    """Both belong to the framing, not to the body, and the connection is kept."""
    sim.faults.add(
        Raw(
            script=(
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
                b"%x;a=b\r\n%b\r\n0\r\nx-sum: 1\r\n\r\n" % (len(ANSWER), ANSWER),
            ),
            end="keep",
        )
    )
    answer = await call()
    await call()

    assert answer.body == ANSWER
    assert sim.connection_count == 1


async def test_call_reads_an_answer_that_comes_byte_by_byte(call, sim):
    """How the answer is cut into packets does not matter."""
    sim.faults.add(SplitWrites())

    answer = await call()

    assert answer.body.endswith(b"}")


async def test_call_names_the_limit_that_an_answer_exceeds(connect, make_call, sim):
    """A large answer is refused by its announced length already."""
    upstream = await connect(sim.url, max_answer_bytes=1024)
    sim.faults.add(answered(b'{"choices": ["' + b"a" * 2000 + b'"]}'))

    with pytest.raises(BackendUnavailableError, match="max_answer_bytes") as caught:
        await upstream.call("v1/chat/completions", make_call(), headers={})

    assert caught.value.metadata == {"max_answer_bytes": "1024"}


async def test_call_bounds_an_answer_without_a_length(connect, make_call, sim):
    """An answer without end is cut off at the limit."""
    upstream = await connect(sim.url, max_answer_bytes=1024)
    sim.faults.add(
        Raw(
            script=(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n800\r\n" + b"a" * 2048,),
            end="hold",
        )
    )

    with pytest.raises(BackendUnavailableError, match="max_answer_bytes"):
        await upstream.call("v1/chat/completions", make_call(), headers={})


async def test_call_beyond_the_connections_is_refused_as_overload(connect, make_call, sim):
    """A call never waits for a connection, and an endpoint's health does not suffer."""
    upstream = await connect(sim.url, max_connections=1)
    sim.faults.add(StallBeforeHead())
    first = asyncio.create_task(upstream.call("v1/chat/completions", make_call(), headers={}))
    await sim.wait_running(1)

    with pytest.raises(OverloadedError) as caught:
        await upstream.call("v1/chat/completions", make_call(), headers={})

    first.cancel()
    assert caught.value.retry_after_s == 1.0


async def test_call_closes_its_connection_when_cancelled(call, sim):
    """Cancelling reaches the upstream, which stops its work."""
    sim.faults.add(StallBeforeHead())
    task = asyncio.create_task(call())
    await sim.wait_running(1)

    task.cancel()

    await sim.wait_aborts(1)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_call_closes_its_connection_when_cancelled_amid_the_body(call, sim):
    """Cancelling reaches the upstream also when the answer has begun."""
    sim.faults.add(StallAfterHead())
    task = asyncio.create_task(call())
    await sim.wait_running(1)

    task.cancel()

    await sim.wait_aborts(1)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("bounds", "bound"),
    [({"first_chunk_s": 30.0}, "first_chunk"), ({"total_s": 20.0}, "total")],
)
async def test_call_ends_at_its_bound(call, sim, clock, bounds, bound):
    """The error names the bound that was hit, and the upstream is left."""
    sim.faults.add(StallBeforeHead())
    task = asyncio.create_task(call(**bounds))
    await sim.wait_running(1)

    clock.advance(31.0)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    span = next(iter(bounds.values()))
    assert caught.value.metadata == {"bound": bound, "timeout_s": f"{span:g}"}
    assert caught.value.work_started
    await sim.wait_aborts(1)


async def test_call_ends_when_the_upstream_falls_silent_amid_the_body(call, sim, clock):
    """Once the body has begun, silence is bounded by `idle`."""
    read = asyncio.Event()
    sim.faults.add(
        Raw(
            script=(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", read, b"x"),
            end="hold",
        )
    )
    task = asyncio.create_task(call(idle_s=5.0, first_chunk_s=None))
    await sim.wait_running(1)
    while not task.done():  # nothing but `idle` can end it, whenever the first byte arrives
        clock.advance(1.0)
        await asyncio.sleep(0)

    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata["bound"] == "idle"


async def test_call_ends_when_no_connection_comes_about(connect, make_call, clock, silent_port):
    """A server that accepts and never speaks TLS is bounded by `connect`; nothing was started."""
    upstream = await connect(f"https://127.0.0.1:{silent_port.port}")
    task = asyncio.create_task(
        upstream.call("v1/chat/completions", make_call(connect_s=3.0), headers={})
    )
    await silent_port.accepted.wait()

    clock.advance(4.0)
    with pytest.raises(BackendTimeoutError) as caught:
        await task

    assert caught.value.metadata["bound"] == "connect"
    assert not caught.value.work_started


async def test_call_fails_when_the_upstream_is_stopped(call, upstream, sim):
    """Stopping ends what is under way as a fault of the backend, and can be repeated."""
    sim.faults.add(StallBeforeHead())
    task = asyncio.create_task(call())
    await sim.wait_running(1)

    await upstream.stop()
    await upstream.stop()

    with pytest.raises(BackendUnavailableError):
        await task
    assert sim.received_count == 1


async def test_call_fails_after_stop(call, upstream, sim):
    """A stopped upstream sends nothing."""
    await upstream.stop()

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert not caught.value.work_started
    assert sim.received_count == 0


async def test_upstream_starts_again_after_stop(call, upstream):
    """Start may follow stop."""
    await upstream.stop()
    await upstream.start()

    answer = await call()

    assert b"choices" in answer.body


async def test_stop_closes_idle_connections(call, upstream, sim):
    """Nothing is left open."""
    await call()

    await upstream.stop()

    while sim.connection_count:  # noqa: ASYNC110 - the simulator has no event for it
        await asyncio.sleep(0)


async def test_calls_at_the_same_time_never_mix(call):
    """Each caller gets the answer to its own body."""
    bodies = [b'{"model":"sim-model","prompt":"%d","echo":true}' % n for n in range(30)]

    answers = await asyncio.gather(*(call(body, operation=Operation.COMPLETION) for body in bodies))

    assert all(b'"text":"%d' % n in answer.body for n, answer in enumerate(answers))
