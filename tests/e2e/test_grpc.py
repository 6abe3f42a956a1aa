"""gRPC clients: with no generated code, with the health service, and with our typed client."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc import StatusCode, aio
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from first_core.client import RouterClient, connect
from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    EndpointColdError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
    StreamTruncatedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    Refuse,
    StallAfterEvents,
    StallBeforeHead,
)
from first_proto.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
INFERENCE = "first.v1.InferenceService"


@pytest.fixture(params=["one_process"])
def carrier(request: pytest.FixtureRequest) -> str:
    """The router listens for gRPC in both; one is enough here."""
    name: str = request.param
    return name


@pytest.fixture
async def channel(gateway) -> AsyncIterator[Any]:
    """A plain gRPC channel to the router."""
    async with aio.insecure_channel(gateway.grpc_target) as opened:
        yield opened


@pytest.fixture
async def client(gateway) -> AsyncIterator[RouterClient]:
    """Our typed client, over gRPC."""
    async with connect(gateway.grpc_target) as opened:
        yield RouterClient(opened)


class Reflected:
    """A client that knows of a server only what its reflection service says."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        self._pool = descriptor_pool.DescriptorPool()

    async def _ask(self, **question: str) -> Any:
        async def requests() -> AsyncIterator[Any]:
            yield reflection_pb2.ServerReflectionRequest(**question)

        async for answer in self._stub.ServerReflectionInfo(requests()):
            return answer
        raise AssertionError

    async def services(self) -> set[str]:
        answer = await self._ask(list_services="")
        return {service.name for service in answer.list_services_response.service}

    async def load(self, symbol: str) -> Any:
        """Return the descriptor of a service."""
        answer = await self._ask(file_containing_symbol=symbol)
        await self._add(answer.file_descriptor_response.file_descriptor_proto)
        return self._pool.FindServiceByName(symbol)

    async def _add(self, files: Any) -> None:
        from google.protobuf import descriptor_pb2  # noqa: PLC0415 - the generic way's own

        for data in files:
            file = descriptor_pb2.FileDescriptorProto.FromString(data)
            for needed in file.dependency:
                try:
                    self._pool.FindFileByName(needed)
                except KeyError:
                    answer = await self._ask(file_by_filename=needed)
                    await self._add(answer.file_descriptor_response.file_descriptor_proto)
            self._pool.Add(file)

    def stream(self, method: Any, fields: dict[str, Any]) -> Any:
        """Run a server stream with a request given as JSON fields."""
        request = message_factory.GetMessageClass(method.input_type)()
        json_format.ParseDict(fields, request)
        path = f"/{method.containing_service.full_name}/{method.name}"
        answer = message_factory.GetMessageClass(method.output_type)
        serialize = type(request).SerializeToString
        return self._channel.unary_stream(path, serialize, answer.FromString)(request)


async def test_reflection_lists_the_services(channel):
    """A generic client finds our services, and the standard ones."""
    services = await Reflected(channel).services()

    assert {INFERENCE, "first.v1.CatalogService", "grpc.health.v1.Health"} <= services


async def test_a_generic_client_runs_a_streamed_call(channel, gateway):
    """With reflection alone a client can stream a call and read its events by name."""
    reflected = Reflected(channel)
    service = await reflected.load(INFERENCE)
    body = json.dumps({**CHAT, "stream": True}).encode()
    import base64  # noqa: PLC0415 - how JSON writes bytes

    call = {"operation": "OPERATION_CHAT", "body": base64.b64encode(body).decode()}
    stream = reflected.stream(service.methods_by_name["StreamCall"], {"call": call})
    messages = [json_format.MessageToDict(message) async for message in stream]

    kinds = [message["kind"].removeprefix("STREAM_EVENT_KIND_") for message in messages]
    assert (kinds[0], kinds[-1]) == ("HEAD", "TRAILER")
    assert set(kinds[1:-1]) == {"DATA"}
    data = b"".join(base64.b64decode(m["data"]) for m in messages if "data" in m)
    assert data.endswith(b"data: [DONE]\n\n")
    assert messages[0]["head"]["endpoint"]["cluster"] == "a"
    assert messages[-1]["trailer"]["usageSource"] == "USAGE_SOURCE_UPSTREAM"


@pytest.mark.parametrize("service", ["", INFERENCE, "first.v1.CatalogService"])
async def test_health_says_serving(channel, service):
    """The standard health service knows the server and each service."""
    stub = health_pb2_grpc.HealthStub(channel)

    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(channel):
    """As the health protocol asks."""
    with pytest.raises(AioRpcError) as caught:
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="first.v1.Nothing")
        )

    assert caught.value.code() is StatusCode.NOT_FOUND


def request(**fields: Any) -> inference_pb2.CallRequest:
    """Return a chat call."""
    body = json.dumps({**CHAT, **fields.pop("body", {})}).encode()
    return inference_pb2.CallRequest(
        **{"operation": common_pb2.OPERATION_CHAT, "body": body, **fields}
    )


async def test_a_plain_call_tells_all(client):
    """Answer, endpoint and usage come in typed fields."""
    answer = await client.call(request())

    assert json.loads(answer.body)["object"] == "chat.completion"
    assert (answer.head.endpoint.cluster, answer.head.attempt_count) == ("a", 1)
    assert answer.trailer.output_token_count > 0
    assert list(answer.trailer.finish_reasons) == ["stop"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (ErrorStatus(status=400), UpstreamRejectedError),
        (ErrorStatus(status=429), LimitExceededError),
        (ErrorStatus(status=500), BackendUnavailableError),
        (Refuse(), BackendUnavailableError),
    ],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_failures_are_the_same_errors_as_in_process(client, sim, fault, error, stream):
    """The typed client raises the router's own error, over gRPC too."""
    sim.faults.add(fault, times=None)

    with pytest.raises(error):
        await run(client, request(body={"stream": stream}), stream=stream)


async def run(client: RouterClient, call: Any, *, stream: bool, **options: Any) -> list[Any]:
    """Run a call and return its messages."""
    if not stream:
        return [await client.call(call, **options)]
    messages: list[Any] = []

    async def receive(message: Any) -> None:
        messages.append(message)

    await client.stream(inference_pb2.StreamCallRequest(call=call), receive, **options)
    return messages


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"operation": 0}, InvalidRequestError),
        ({"operation": 99}, InvalidRequestError),
        ({"model": "nope"}, NotFoundError),
        ({"pin": {"cluster": "z"}}, NotFoundError),
        ({"body": {"model": 7}}, InvalidRequestError),
        ({"first_chunk_timeout": {"seconds": -1}}, InvalidRequestError),
    ],
)
async def test_wrong_calls(client, fields, error):
    """Each kind of wrong call has its own error."""
    with pytest.raises(error):
        await client.call(request(**fields))


async def test_an_operation_that_no_endpoint_has(open_gateway, sim):
    """A model that cannot do what is asked: `UnsupportedError`."""
    server = {"url": sim.url, "operations": ["chat"]}
    call = inference_pb2.CallRequest(
        operation=common_pb2.OPERATION_EMBEDDING, body=b'{"model":"m","input":"x"}'
    )
    async with (
        open_gateway(vllm={"servers": [server]}) as gateway,
        connect(gateway.grpc_target) as channel,
    ):
        with pytest.raises(UnsupportedError):
            await RouterClient(channel).call(call)


async def test_a_model_whose_server_is_away(gateway, client, sim):
    """A model that is known and down: `EndpointColdError`, with a time to come back."""
    await sim.pause_listening()
    await gateway.wait_catalog(lambda c: c.model("m").state.name == "DOWN", bound_s=5)

    with pytest.raises(EndpointColdError) as caught:
        await client.call(request())

    assert caught.value.retry_after_s


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_the_deadline_of_a_call_stops_the_upstream(client, sim, stream):
    """A gRPC deadline ends the call, here and at the upstream."""
    sim.faults.add(StallBeforeHead())

    with pytest.raises(BackendTimeoutError):
        await run(client, request(body={"stream": stream}), stream=stream, timeout_s=0.3)

    await sim.wait_aborts(1)


async def test_cancelling_a_call_stops_the_upstream(client, sim):
    """A cancelled RPC ends the work."""
    sim.faults.add(StallAfterEvents(count=2))
    task = asyncio.create_task(run(client, request(body={"stream": True}), stream=True))
    await sim.wait_running(1)

    task.cancel()

    await sim.wait_aborts(1)
    await asyncio.wait([task])


async def test_a_truncated_stream_is_data_loss(channel, sim):
    """A stream that breaks off has no trailer and ends in DATA_LOSS, for any client."""
    sim.faults.add(CutAfterEvents(count=3))
    reflected = Reflected(channel)
    service = await reflected.load(INFERENCE)
    stream = channel.unary_stream(
        f"/{INFERENCE}/StreamCall",
        inference_pb2.StreamCallRequest.SerializeToString,
        inference_pb2.StreamCallResponse.FromString,
    )(inference_pb2.StreamCallRequest(call=request(body={"stream": True})))
    kinds = []

    with pytest.raises(AioRpcError) as caught:
        while True:
            kinds.append((await stream.read()).kind)

    assert service.name == "InferenceService"
    assert caught.value.code() is StatusCode.DATA_LOSS
    assert inference_pb2.STREAM_EVENT_KIND_TRAILER not in kinds


async def test_a_truncated_stream_raises_in_the_typed_client(client, sim):
    """The typed client raises `StreamTruncatedError`."""
    sim.faults.add(CutAfterEvents(count=3))

    with pytest.raises(StreamTruncatedError):
        await run(client, request(body={"stream": True}), stream=True)


async def test_an_error_body_of_8_kib_survives_the_trip(client, sim):
    """The largest error body that is passed on arrives whole in the status details."""
    body = b'{"error":{"message":"' + b"x" * 8000 + b'"}}'
    sim.faults.add(ErrorStatus(status=422, body=body))

    with pytest.raises(UpstreamRejectedError) as caught:
        await client.call(request())

    assert (caught.value.upstream.status, caught.value.upstream.body) == (422, body)


async def test_the_catalog_can_be_watched(channel, gateway, sim):
    """The first message tells all endpoints, the next one what changed."""
    from first_proto.v1 import catalog_pb2, catalog_pb2_grpc  # noqa: PLC0415 - this test's own

    watch = catalog_pb2_grpc.CatalogServiceStub(channel).WatchEndpoints(
        catalog_pb2.WatchEndpointsRequest()
    )
    first = await watch.read()
    await sim.pause_listening()
    async with asyncio.timeout(5):
        while (message := await watch.read()).endpoints[0].state != common_pb2.ENDPOINT_STATE_DOWN:
            pass
    watch.cancel()

    assert [e.ref.model for e in first.endpoints] == ["m", "org/lora"]
    assert message.endpoints[0].state_reason
