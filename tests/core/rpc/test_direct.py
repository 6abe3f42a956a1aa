"""The in-process channel has the call surface of gRPC."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio

from first_core.link import LinkChannel, LinkServer
from first_core.rpc.direct import DirectChannel
from first_proto.link.v1 import link_pb2_grpc
from first_proto.v1 import inference_pb2, inference_pb2_grpc

RESPONSE = inference_pb2.StreamCallResponse


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """Answers with what it saw."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()

    async def Call(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model == "abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone", (("k", "v"),))
        if request.model == "hang":
            await asyncio.Event().wait()
        metadata = dict(context.invocation_metadata())
        return inference_pb2.CallResponse(body=request.body, content_type=metadata.get("k", ""))

    async def StreamCall(self, request: Any, context: Any) -> None:  # noqa: N802
        try:
            for index in range(3):
                await context.write(RESPONSE(data=b"%d" % index))
            if request.call.model == "abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "cut")
            if request.call.model == "hang":
                await asyncio.Event().wait()
        finally:
            self.stopped.set()


@pytest.fixture(params=["direct", "grpc", "link"])
async def opened(request: pytest.FixtureRequest) -> Any:
    """A stub and its servicer, over each carrier: both must behave the same."""
    servicer = Servicer()
    if request.param == "direct":
        channel = DirectChannel()
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, channel)
        yield inference_pb2_grpc.InferenceServiceStub(channel), servicer
        return
    server = aio.server()
    links = LinkServer()
    link_pb2_grpc.add_LinkServiceServicer_to_server(links, server)
    target = links if request.param == "link" else server
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, target)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    connection = aio.insecure_channel(f"127.0.0.1:{port}")
    channel = LinkChannel(connection) if request.param == "link" else connection
    yield inference_pb2_grpc.InferenceServiceStub(channel), servicer
    await channel.close()
    await server.stop(None)


def wanted(model: str = "") -> Any:
    return inference_pb2.StreamCallRequest(call=inference_pb2.CallRequest(model=model))


async def test_unary_call_carries_message_and_metadata(opened: Any) -> None:
    """The servicer sees what the caller sent."""
    stub, _ = opened
    request = inference_pb2.CallRequest(body=b"\xff")
    response = await stub.Call(request, metadata=(("k", "v"),))

    assert (response.body, response.content_type) == (b"\xff", "v")


async def test_abort_is_an_rpc_error(opened: Any) -> None:
    """Code, message and trailing metadata reach the caller."""
    stub, _ = opened
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Call(inference_pb2.CallRequest(model="abort"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "gone"
    assert ("k", "v") in [tuple(pair) for pair in caught.value.trailing_metadata()]


async def test_deadline_is_kept(opened: Any) -> None:
    """A call that outlives its timeout ends with DEADLINE_EXCEEDED."""
    stub, _ = opened
    with pytest.raises(aio.AioRpcError) as caught:
        await stub.Call(inference_pb2.CallRequest(model="hang"), timeout=0.05)

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_stream_can_be_iterated(opened: Any) -> None:
    """`async for` yields each message, once, in order."""
    stub, _ = opened

    found = [message.data async for message in stub.StreamCall(wanted())]
    assert found == [b"0", b"1", b"2"]


async def test_stream_can_be_read(opened: Any) -> None:
    """`read` returns each message and then EOF, however often it is asked."""
    stub, _ = opened
    call = stub.StreamCall(wanted())
    found = [(await call.read()).data for _ in range(3)]

    assert found == [b"0", b"1", b"2"]
    assert await call.read() is aio.EOF
    assert await call.read() is aio.EOF


async def test_stream_that_fails_raises_after_its_messages(opened: Any) -> None:
    """The messages come first, then the status."""
    stub, _ = opened
    call = stub.StreamCall(wanted("abort"))
    found = []
    with pytest.raises(aio.AioRpcError) as caught:
        async for message in call:
            found.append(message.data)  # noqa: PERF401 - the loop raises

    assert found == [b"0", b"1", b"2"]
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


async def test_cancelled_stream_stops_the_servicer(opened: Any) -> None:
    """`cancel` reaches the servicer."""
    stub, servicer = opened
    call = stub.StreamCall(wanted("hang"))
    await call.read()
    call.cancel()
    await servicer.stopped.wait()


async def test_push_needs_no_task() -> None:
    """A pushed stream runs in the caller's own task."""
    channel, tasks = DirectChannel(), []
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(Servicer(), channel)

    async def receive(_message: Any) -> None:
        tasks.append(asyncio.current_task())

    await inference_pb2_grpc.InferenceServiceStub(channel).StreamCall(wanted()).push_into(receive)

    assert tasks == [asyncio.current_task()] * 3


def test_unknown_method_is_refused() -> None:
    """A stub of a service that is not here fails at once."""
    with pytest.raises(ValueError, match="no servicer"):
        inference_pb2_grpc.InferenceServiceStub(DirectChannel())
