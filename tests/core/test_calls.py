"""One call through the router, over each carrier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from first_core.client import RouterClient
from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    EndpointColdError,
    InternalError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
    StreamTruncatedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.plugin import Answer
from first_core.settings import LimitSettings
from first_core.testing.scripted import ScriptedBackend, ready
from first_core.types import EndpointState, Operation, UpstreamError
from first_proto.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from first_core.plugin import Call, ChunkSink

BODY = b'{ "model": "m", "unknown": {"k": [1, 2.50, "\xc3\xa9"]} }'
ANSWER = (
    b'{"choices": [{"finish_reason": "stop"}], "x": 1.50,'
    b' "usage": {"prompt_tokens": 3,"completion_tokens": 2}}'
)
TEXT = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


async def answer(_call: Call) -> Answer:
    return Answer(ANSWER, "application/json; x=1")


async def unavailable(_call: Call) -> Answer:
    raise BackendUnavailableError("the endpoint is gone", work_started=False)


def writes(*chunks: bytes, error: Exception | None = None) -> Any:
    async def on_stream(_call: Call, sink: ChunkSink) -> None:
        sink.start("text/event-stream")
        for chunk in chunks:
            if sink.write(chunk):
                await sink.drain()
        if error is not None:
            raise error

    return on_stream


def request(body: bytes = BODY, **fields: Any) -> inference_pb2.CallRequest:
    fields.setdefault("operation", common_pb2.OPERATION_CHAT)
    return inference_pb2.CallRequest(body=body, **fields)


async def stream(channel: Any, body: bytes = BODY) -> list[inference_pb2.StreamCallResponse]:
    messages: list[inference_pb2.StreamCallResponse] = []

    async def receive(message: inference_pb2.StreamCallResponse) -> None:
        messages.append(message)

    wanted = inference_pb2.StreamCallRequest(call=request(body))
    await RouterClient(channel).stream(wanted, receive)
    return messages


def data_of(messages: list[inference_pb2.StreamCallResponse]) -> bytes:
    return b"".join(message.data for message in messages)


async def test_bodies_pass_byte_for_byte(open_router: Any) -> None:
    """Request and answer arrive as they were sent, unknown fields included."""
    backend = ScriptedBackend(ready(), on_call=answer)
    async with open_router(fake=backend) as channel:
        response = await RouterClient(channel).call(request())

    assert backend.calls[0].body == BODY
    assert response.body == ANSWER
    assert response.content_type == "application/json; x=1"


async def test_answer_tells_who_and_how_much(open_router: Any) -> None:
    """Head and trailer name the endpoint, the attempts and the upstream's usage."""
    async with open_router(fake=ScriptedBackend(ready(), on_call=answer)) as channel:
        response = await RouterClient(channel).call(request())

    assert (response.head.endpoint.cluster, response.head.endpoint.model) == ("c", "m")
    assert response.head.attempt_count == 1
    assert response.trailer.usage_source == inference_pb2.USAGE_SOURCE_UPSTREAM
    assert response.trailer.input_token_count == 3
    assert list(response.trailer.finish_reasons) == ["stop"]


async def test_served_model_stands_in_the_body(open_router: Any) -> None:
    """An alias becomes the upstream's own name; nothing else changes."""
    backend = ScriptedBackend(ready(served_model="org/m-v2"), on_call=answer)
    async with open_router(fake=backend) as channel:
        await RouterClient(channel).call(request())

    assert backend.calls[0].body == BODY.replace(b'"m"', b'"org/m-v2"')


async def test_stream_passes_event_for_event(open_router: Any) -> None:
    """Head, data and trailer come in order; the bytes are the upstream's."""
    backend = ScriptedBackend(ready(), on_stream=writes(TEXT, TEXT + END, DONE))
    async with open_router(fake=backend) as channel:
        messages = await stream(channel)

    kinds = [message.kind for message in messages]
    assert kinds == [1, 2, 2, 2, 4]
    assert data_of(messages) == TEXT + TEXT + END + DONE


async def test_usage_is_asked_for_and_hidden(open_router: Any) -> None:
    """The upstream is asked for usage, the client who did not ask does not see it."""
    backend = ScriptedBackend(ready(), on_stream=writes(TEXT, END, USAGE, DONE))
    async with open_router(fake=backend) as channel:
        messages = await stream(channel)

    assert b'"stream_options":{"include_usage":true}' in backend.calls[0].body
    assert data_of(messages) == TEXT + END + DONE
    assert messages[-1].trailer.output_token_count == 2


async def test_usage_that_was_asked_for_passes(open_router: Any) -> None:
    """A client that asks for usage gets its event, and its body is not touched."""
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true}}'
    backend = ScriptedBackend(ready(), on_stream=writes(TEXT, END, USAGE, DONE))
    async with open_router(fake=backend) as channel:
        messages = await stream(channel, body)

    assert backend.calls[0].body == body
    assert data_of(messages) == TEXT + END + USAGE + DONE


async def test_truncated_stream_is_an_error(open_router: Any) -> None:
    """A stream that ends early fails after its events, with no end marker."""
    backend = ScriptedBackend(ready(), on_stream=writes(TEXT))
    messages: list[Any] = []

    async def receive(message: Any) -> None:
        messages.append(message)

    async with open_router(fake=backend) as channel:
        with pytest.raises(StreamTruncatedError):
            await RouterClient(channel).stream(
                inference_pb2.StreamCallRequest(call=request()), receive
            )

    assert data_of(messages) == TEXT
    assert len(backend.calls) == 1


async def test_connection_lost_after_the_end_does_no_harm(open_router: Any) -> None:
    """Once each choice has finished, what breaks changes nothing; the end marker is ours."""
    error = StreamTruncatedError("reset")
    backend = ScriptedBackend(ready(), on_stream=writes(TEXT, END, error=error))
    async with open_router(fake=backend) as channel:
        messages = await stream(channel)

    assert data_of(messages) == TEXT + END + DONE


async def test_error_event_first_goes_to_the_next_endpoint(open_router: Any) -> None:
    """An error as first event inside a 200 fails over like any other."""
    first = ScriptedBackend(
        ready(cluster="a"), on_stream=writes(b'data: {"error":{"message":"x"}}\n\n')
    )
    second = ScriptedBackend(ready(cluster="b"), on_stream=writes(TEXT, END, DONE))
    async with open_router(one=first, two=second) as channel:
        messages = await stream(channel)

    assert data_of(messages) == TEXT + END + DONE
    assert messages[0].head.endpoint.cluster == "b"
    assert messages[0].head.attempt_count == 2


async def test_error_event_later_ends_the_call(open_router: Any) -> None:
    """After the first chunk there is no second attempt, and the upstream's words are kept."""
    said = b'{"error":{"message":"engine died"}}'
    first = ScriptedBackend(
        ready(cluster="a"), on_stream=writes(TEXT, b"data: " + said + b"\n\n" + DONE)
    )
    second = ScriptedBackend(ready(cluster="b"), on_stream=writes(TEXT, END, DONE))
    async with open_router(one=first, two=second) as channel:
        with pytest.raises(StreamTruncatedError, match="engine died") as caught:
            await stream(channel)

    assert caught.value.upstream is not None
    assert caught.value.upstream.body == said
    assert not second.calls


async def test_failed_endpoint_is_followed_by_the_next(open_router: Any) -> None:
    """A backend fault before the first byte goes on to the next candidate, in order."""
    first = ScriptedBackend(ready(cluster="a"), on_call=unavailable)
    second = ScriptedBackend(ready(cluster="b"), on_call=answer)
    async with open_router(one=first, two=second) as channel:
        response = await RouterClient(channel).call(request())

    assert response.head.endpoint.cluster == "b"
    assert response.head.attempt_count == 2


async def test_callers_fault_is_not_tried_again(open_router: Any) -> None:
    """An upstream's 4xx goes to the client unchanged, after one attempt."""
    said = UpstreamError(422, "application/json", b'{"detail":"no"}')

    async def rejects(_call: Call) -> Answer:
        raise UpstreamRejectedError("no", upstream=said, metadata={"http_status": "422"})

    first = ScriptedBackend(ready(cluster="a"), on_call=rejects)
    second = ScriptedBackend(ready(cluster="b"), on_call=answer)
    async with open_router(one=first, two=second) as channel:
        with pytest.raises(UpstreamRejectedError, match="no") as caught:
            await RouterClient(channel).call(request())

    assert caught.value.upstream == said
    assert caught.value.metadata == {
        "http_status": "422",
        "attempt_count": "1",
        "last_endpoint": "a/f/m",
    }
    assert not second.calls


async def test_retry_after_reaches_the_caller(open_router: Any) -> None:
    """The upstream's wait is told to the second and below."""

    async def limited(_call: Call) -> Answer:
        raise LimitExceededError("slow down", retry_after_s=1.5)

    async with open_router(fake=ScriptedBackend(ready(), on_call=limited)) as channel:
        with pytest.raises(LimitExceededError) as caught:
            await RouterClient(channel).call(request())

    assert caught.value.retry_after_s == 1.5


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"body": b'{"model":"nope"}'}, NotFoundError),
        ({"body": b"{}"}, InvalidRequestError),
        ({"body": b""}, InvalidRequestError),
        ({"body": b"{"}, InvalidRequestError),
        ({"operation": common_pb2.OPERATION_UNSPECIFIED}, InvalidRequestError),
        ({"operation": common_pb2.OPERATION_EMBEDDING}, UnsupportedError),
        ({"model": "cold"}, EndpointColdError),
        ({"pin": inference_pb2.Pin(cluster="elsewhere")}, NotFoundError),
        ({"body": b'{"model":"m","x":"' + b"x" * 2000 + b'"}'}, InvalidRequestError),
    ],
)
async def test_wrong_calls_are_told_so(
    open_router: Any, fields: dict[str, Any], error: type[Exception]
) -> None:
    """Each kind of wrong call has its error, and nothing reaches a backend."""
    backend = ScriptedBackend(
        ready(operations=frozenset({Operation.CHAT})),
        ready("cold", state=EndpointState.STARTING),
        on_call=answer,
    )
    limits = {"limits": LimitSettings(max_body_bytes=1024)}
    async with open_router(settings=limits, fake=backend) as channel:
        with pytest.raises(error):
            await RouterClient(channel).call(request(**fields))

    assert not backend.calls


async def test_a_bug_tells_the_request_id_only(open_router: Any) -> None:
    """What a plugin raises by mistake never reaches the caller."""

    async def bug(_call: Call) -> Answer:
        raise RuntimeError("secret path")

    async with open_router(fake=ScriptedBackend(ready(), on_call=bug)) as channel:
        with pytest.raises(InternalError) as caught:
            await RouterClient(channel).call(request(), metadata=[("x-request-id", "r-1")])

    assert "r-1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("streamed", [False, True])
async def test_cancelling_reaches_the_backend(open_router: Any, streamed: bool) -> None:  # noqa: FBT001
    """A caller that leaves before the first byte stops the backend's work."""
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def hang(*_args: Any) -> Any:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    backend = ScriptedBackend(ready(), on_call=hang, on_stream=hang)
    async with open_router(fake=backend) as channel:
        run = stream(channel) if streamed else RouterClient(channel).call(request())
        task = asyncio.ensure_future(run)
        await begun.wait()
        task.cancel()
        await stopped.wait()

        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_reaches_the_backend_amid_a_stream(open_router: Any) -> None:
    """A caller that leaves after the first chunk stops the backend's work."""
    first, stopped = asyncio.Event(), asyncio.Event()

    async def on_stream(_call: Call, sink: ChunkSink) -> None:
        sink.start("text/event-stream")
        if sink.write(TEXT):
            await sink.drain()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def receive(_message: Any) -> None:
        first.set()

    async with open_router(fake=ScriptedBackend(ready(), on_stream=on_stream)) as channel:
        wanted = inference_pb2.StreamCallRequest(call=request())
        task = asyncio.create_task(RouterClient(channel).stream(wanted, receive))
        await first.wait()
        task.cancel()
        await stopped.wait()

        with pytest.raises(asyncio.CancelledError):
            await task


async def test_deadline_ends_the_call(open_router: Any) -> None:
    """The RPC's deadline bounds the whole call and stops the backend's work."""
    stopped = asyncio.Event()

    async def hang(_call: Call) -> Answer:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    async with open_router(fake=ScriptedBackend(ready(), on_call=hang)) as channel:
        with pytest.raises(BackendTimeoutError):
            await RouterClient(channel).call(request(), timeout_s=0.05)
        await stopped.wait()


async def test_bounds_reach_the_backend(open_router: Any) -> None:
    """The caller's first-chunk bound and what is left of its deadline stand in the attempt."""
    backend = ScriptedBackend(ready(), on_call=answer)
    wanted = request()
    wanted.first_chunk_timeout.FromMilliseconds(1500)
    async with open_router(fake=backend) as channel:
        await RouterClient(channel).call(wanted, timeout_s=30)

    timeouts = backend.calls[0].timeouts
    assert timeouts.first_chunk_s == 1.5
    assert timeouts.total_s is not None
    assert 0 < timeouts.total_s < 31  # gRPC rounds deadlines


async def test_headers_are_allow_listed(open_router: Any) -> None:
    """Only listed client headers reach the upstream, with trace and request id; no credential."""
    backend = ScriptedBackend(ready(), on_call=answer)
    wanted = request(headers={"anthropic-beta": "x", "cookie": "c", "authorization": "a"})
    trace = "00-" + "1" * 32 + "-" + "2" * 16 + "-00"
    metadata = [("traceparent", trace), ("x-request-id", "r-1"), ("authorization", "Bearer s")]
    async with open_router(fake=backend) as channel:
        await RouterClient(channel).call(wanted, metadata=metadata)

    headers = dict(backend.calls[0].headers)
    assert headers.pop("traceparent").startswith("00-" + "1" * 32)
    assert headers == {"anthropic-beta": "x", "x-request-id": "r-1"}


async def test_parallel_calls_never_mix(open_router: Any) -> None:
    """Each of many calls in flight gets its own answer."""

    async def echo(call: Call) -> Answer:
        await asyncio.sleep(0)
        return Answer(call.body, "application/json")

    async with open_router(fake=ScriptedBackend(ready(), on_call=echo)) as channel:
        client = RouterClient(channel)
        bodies = [b'{"model":"m","i":%d}' % i for i in range(200)]
        answers = await asyncio.gather(*(client.call(request(body)) for body in bodies))

    assert [found.body for found in answers] == bodies


async def test_slow_reader_slows_the_backend(open_router: Any) -> None:
    """The backend is held back while the client does not read; nothing piles up without end."""
    written = 0
    reading = asyncio.Event()

    async def on_stream(_call: Call, sink: ChunkSink) -> None:
        nonlocal written
        sink.start("text/event-stream")
        for _ in range(2000):
            written += 1
            if sink.write(TEXT[:-2] + b" " * 10_000 + b"\n\n"):
                await sink.drain()
        sink.write(END)
        await sink.drain()

    async def receive(_message: Any) -> None:
        await reading.wait()

    async with open_router(fake=ScriptedBackend(ready(), on_stream=on_stream)) as channel:
        wanted = inference_pb2.StreamCallRequest(call=request())
        task = asyncio.create_task(RouterClient(channel).stream(wanted, receive))
        before = -1
        while written != before or not written:
            before = written
            for _ in range(1000):
                await asyncio.sleep(0)
        assert written < 2000
        reading.set()
        await task

    assert written == 2000


async def test_client_that_hangs_up_at_the_end_has_cancelled_nothing(open_router: Any) -> None:
    """SDKs close the connection as soon as they see `[DONE]`; the call ended well all the same."""
    done, records = asyncio.Event(), []

    async def on_stream(_call: Call, sink: ChunkSink) -> None:
        sink.start("text/event-stream")
        sink.write(TEXT + END + DONE)
        await sink.drain()
        await asyncio.Event().wait()

    async def receive(message: Any) -> None:
        if message.data.endswith(DONE):
            done.set()

    backend = ScriptedBackend(ready(), on_stream=on_stream)
    ended = asyncio.Event()

    def watch(record: Any) -> None:
        records.append(record)
        ended.set()

    async with open_router(watch=watch, fake=backend) as channel:
        wanted = inference_pb2.StreamCallRequest(call=request())
        task = asyncio.create_task(RouterClient(channel).stream(wanted, receive))
        await done.wait()
        task.cancel()
        await ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert [record.error_reason for record in records] == [""]
