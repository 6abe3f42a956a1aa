"""Gateways as upstreams of gateways: what one has, all serve, and a failure at one ends nothing."""

from __future__ import annotations

import asyncio
import json
import tempfile
from concurrent import futures
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from first_core.app import Process, add_built_ins
from first_core.client import RouterClient
from first_core.errors import BackendTimeoutError
from first_core.peering.settings import AcceptedPeer, FederationSettings
from first_core.plugin import Answer, PluginSettings
from first_core.plugin.host import PluginHost
from first_core.settings import CoreSettings, GrpcSettings, LogSettings, Settings
from first_core.testing.scripted import BackendPlugin, ScriptedBackend, ready
from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    Raw,
    Simulator,
    SimulatorSettings,
    StallAfterEvents,
    StallBeforeHead,
)
from first_core.types import EndpointState, Principal
from first_core.wire.status import error_from_rpc
from first_proto.peer.v1 import peer_pb2, peer_pb2_grpc
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from first_core.plugin import Call

BOUND_S = 10.0
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])


@pytest.fixture
def carrier() -> str:
    """How a front reaches its router is all the same to peers."""
    return "one_process"


@pytest.fixture
def sockets() -> Any:
    """A folder whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        yield Path(folder)


def posts(sim: Simulator) -> list[Any]:
    """The calls that a simulator got."""
    return [received for received in sim.received if received[0] == "POST"]


def is_ready(gateway: Any, model: str, count: int = 1) -> bool:
    """Tell whether a gateway has so many ready endpoints of a model."""
    route = gateway.router.router.routes.resolve(model)
    states = [target.report.state for target in route.targets] if route else []
    return states.count(EndpointState.READY) == count


async def wait_ready(gateway: Any, model: str, count: int = 1) -> None:
    """Wait until a gateway has so many ready endpoints of a model."""
    await wait_for(gateway, lambda: is_ready(gateway, model, count))


async def wait_for(gateway: Any, condition: Callable[[], bool]) -> None:
    """Wait until something holds that changes with the catalog."""
    async with asyncio.timeout(BOUND_S):
        while True:
            change = gateway.router.router.catalog.next_change()
            if condition():
                return
            await change.wait()


def ways_to(gateway: Any, model: str) -> list[tuple[str, ...]]:
    """Return the gateways between this one and each endpoint of a model."""
    route = gateway.router.router.routes.resolve(model)
    return sorted(target.report.via for target in route.targets) if route else []


async def answered_by(gateway: Any) -> str:
    """Return the endpoint of the gateway's last call."""
    records = await gateway.watch.wait(1)
    return str(records[-1].endpoint)


@pytest.fixture
def federation(open_gateway, sockets):
    """Open gateways that list each other: `async with federation(a=[sim], b=[]) as (a, b)`.

    Each simulator of a gateway is a cluster with the gateway's name. `links` tells who asks whom,
    everybody everybody by default; `sections` are settings of all.
    """

    @asynccontextmanager
    async def opener(
        *,
        links: dict[str, str] | None = None,
        hop_budget: int = 3,
        sections: Any = None,
        **gateways: list[Simulator],
    ) -> AsyncIterator[list[Any]]:
        async with AsyncExitStack() as stack:
            opened = []
            for name, sims in gateways.items():
                others = [n for n in gateways if n != name]
                asked = others if links is None else list(links.get(name, ""))
                settings = {
                    "vllm": {
                        "servers": [
                            {"url": sim.url, "cluster": name, "probe_interval_s": 0.3}
                            for sim in sims
                        ]
                    },
                    "federation": {
                        "name": name,
                        "hop_budget": hop_budget,
                        "listen": f"unix:{sockets}/{name}",
                        "peers": [{"name": n, "target": f"unix:{sockets}/{n}"} for n in asked],
                        "accept": [{"name": n} for n in others],
                    },
                    "resilience": {"continuation": False},
                    **(sections or {}),
                }
                opened.append(await stack.enter_async_context(open_gateway(**settings)))
            yield opened

    return opener


@asynccontextmanager
async def open_keeper(sockets: Path, backend: ScriptedBackend) -> AsyncIterator[None]:
    """Open a gateway `k` that charges the principals of `a` to the tenant `guests`."""
    host = PluginHost(allow=[])
    add_built_ins(host)
    host.add("keeper", BackendPlugin(keeper=backend))
    federation = FederationSettings(
        name="k",
        listen=f"unix:{sockets}/k",
        accept=[AcceptedPeer(name="a", tenant="guests"), AcceptedPeer(name="b")],
    )
    core = CoreSettings(grpc=GrpcSettings(listen=None), log=LogSettings(level="error"), drain_s=1.0)
    process = Process(Settings(core, {"federation": federation}, None), host)
    await process.start()
    try:
        yield
    finally:
        await process.stop()


def asking_keeper(sockets: Path) -> dict[str, Any]:
    """Return the section of a gateway `a` that asks `k`."""
    return {"name": "a", "peers": [{"name": "k", "target": f"unix:{sockets}/k"}]}


@pytest.fixture
async def near() -> AsyncIterator[Simulator]:
    """The server behind gateway `a`."""
    async with Simulator(SimulatorSettings(models=("x", "both"), seed=7)) as sim:
        yield sim


@pytest.fixture
async def far() -> AsyncIterator[Simulator]:
    """The server behind gateway `b`."""
    async with Simulator(SimulatorSettings(models=("y", "both"), seed=7)) as sim:
        yield sim


@pytest.fixture
async def pair(federation, near, far) -> AsyncIterator[list[Any]]:
    """Two gateways that list each other, `a` before `near` and `b` before `far`."""
    async with federation(a=[near], b=[far]) as (a, b):
        await wait_ready(a, "both", 2)
        await wait_ready(b, "both", 2)
        yield [a, b]


def chat(model: str, *, stream: bool = False) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": model, "messages": messages, "stream": stream}).encode()


def stub_of(channel: aio.Channel) -> Any:
    return peer_pb2_grpc.PeerServiceStub(channel)


def passage(*hops: str, **fields: Any) -> peer_pb2.Passage:
    return peer_pb2.Passage(hops=hops, **fields)


def request(model: str, way: peer_pb2.Passage) -> peer_pb2.CallRequest:
    call = inference_pb2.CallRequest(operation=1, body=chat(model))
    return peer_pb2.CallRequest(call=call, passage=way)


async def refusal(run: Any) -> Any:
    """Return the error that an RPC ends with."""
    with pytest.raises(aio.AioRpcError) as caught:
        await run
    return error_from_rpc(caught.value)


# Serving each other's models


@STREAMED
async def test_each_serves_what_the_other_has(pair, near, far, stream):
    """A model that only the peer has is answered through it, in both directions."""
    a, b = pair
    of_far = await a.post("/v1/chat/completions", chat("y", stream=stream))
    way = await answered_by(a)
    of_near = await b.post("/v1/chat/completions", chat("x", stream=stream))

    assert (of_far.status, of_near.status) == (200, 200)
    assert (len(posts(near)), len(posts(far))) == (1, 1)
    assert way == "b/vllm/y@b"


async def test_lists_show_all_models_at_both(pair):
    """`GET /v1/models` has the same models on each side."""
    lists = [(await gateway.get("/v1/models")).json()["data"] for gateway in pair]
    names = [[model["id"] for model in models] for models in lists]

    assert names == [["both", "x", "y"]] * 2


PLAIN = '{{ "x-unknown":[1.0,1e400,-0], "model":"y",\n "messages": {} }}'
USAGE = '{{"stream":true,"stream_options":{{"include_usage":true}},"model" :"y","messages":{}}}'
ANTHROPIC = '{{"stream":true,"max_tokens":20,"messages":{},"x":"\\u00e9","model":"y"}}'
BODIES = [
    ("/v1/chat/completions", PLAIN),
    ("/v1/chat/completions", USAGE),
    ("/v1/messages", ANTHROPIC),
]


@pytest.mark.parametrize(("path", "template"), BODIES)
async def test_bodies_pass_unchanged_both_ways(pair, far, straight, path, template):
    """Through two gateways every byte is as if the server had been asked itself."""
    body = template.format('[{"role":"user","content":"z\\u00e9 漢 \\/"}]').encode()
    own = {"x_request_id": "same-0123456789"}
    through = await pair[0].post(path, body, **own)
    direct = await straight(far.url, "POST", path, body, **own)

    asked, asked_straight = posts(far)[-2:]
    assert asked[3] == asked_straight[3] == body
    assert through.timeless == direct.timeless
    assert through.media_type == direct.media_type


async def test_odd_bytes_of_a_stream_pass(pair, far):
    """Comments, odd line ends and unknown events arrive as they were sent."""
    events = (
        b': note\n\ndata: {"odd" :  1}\r\n\r\nevent: new\ndata: {}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
        b"content-length: %d\r\n\r\n" % len(events)
    )
    far.faults.add(Raw(script=(head + events,)))
    answer = await pair[0].post("/v1/chat/completions", chat("y", stream=True))

    assert answer.body == events


async def test_the_request_id_and_allowed_headers_reach_the_far_server(pair, far):
    """The id and what the allow-list names pass both gateways, a credential passes none."""
    headers = {"x_request_id": "id-1", "openai_beta": "b", "authorization": "Bearer secret"}
    answer = await pair[0].post("/v1/chat/completions", chat("y"), **headers)

    received = posts(far)[-1][2]
    assert answer.headers["x-request-id"] == received["x-request-id"] == "id-1"
    assert received["openai-beta"] == "b"
    assert "authorization" not in received


# Which endpoint


async def test_own_endpoints_come_first(pair, near, far):
    """While both have the model and room, each side uses its own."""
    for gateway in pair:
        await gateway.post("/v1/chat/completions", chat("both"))

    assert (len(posts(near)), len(posts(far))) == (1, 1)


@STREAMED
async def test_the_peer_takes_over_where_the_own_server_fails(pair, near, far, stream):
    """A failure before the first byte is tried at the peer, and the client sees an answer."""
    near.faults.add(ErrorStatus(status=500))
    answer = await pair[0].post("/v1/chat/completions", chat("both", stream=stream))

    assert answer.status == 200
    assert await answered_by(pair[0]) == "b/vllm/both@b"
    assert answer.headers["x-first-attempts"] == "2"


async def test_no_ping_pong_while_all_fail(pair, near, far):
    """A call that fails everywhere ends soon, and no gateway sends a relayed call on or again."""
    a, _ = pair
    for sim in (near, far):
        sim.faults.add(ErrorStatus(status=500), times=20)
    async with asyncio.timeout(5):
        answer = await a.post("/v1/chat/completions", chat("both"))

    assert answer.status == 503
    assert len(posts(near)) + len(posts(far)) == 4  # `resilience.max_attempts` of `a` alone


async def test_a_broken_stream_goes_on_at_the_peer(federation, near, far):
    """The text goes on at the other gateway's server, and ends as one answer."""
    near.faults.add(CutAfterEvents(count=5))
    async with federation(a=[near], b=[far], sections={"resilience": {}}) as (a, _b):
        await wait_ready(a, "both", 2)
        answer = await a.post("/v1/chat/completions", chat("both", stream=True))

    assert answer.body.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in answer.body
    assert json.loads(posts(far)[-1][3])["continue_final_message"] is True


# Errors


async def test_an_upstream_refusal_comes_back_as_it_was(pair, far, straight):
    """A 4xx of the far server keeps status and body, and is tried nowhere else."""
    body = b'{"model":"y","messages":"none"}'
    through = await pair[0].post("/v1/chat/completions", body)
    direct = await straight(far.url, "POST", "/v1/chat/completions", body)

    assert through.status == direct.status == 400
    assert through.body == direct.body


async def test_a_full_far_server_says_when_to_come_back(pair, far):
    """A 429 keeps its `Retry-After`."""
    far.faults.add(ErrorStatus(status=429, headers={"retry-after": "17"}), times=5)
    answer = await pair[0].post("/v1/chat/completions", chat("y"))

    assert answer.status == 429
    assert answer.headers["retry-after"] == "17"


async def test_a_stream_that_breaks_far_away_ends_in_an_error_event(pair, far):
    """After the first byte there is an error event and no end mark."""
    far.faults.add(CutAfterEvents(count=3))
    answer = await pair[0].post("/v1/chat/completions", chat("y", stream=True))

    assert answer.status == 200
    assert b'"error"' in answer.body
    assert b"[DONE]" not in answer.body


async def test_a_stream_whose_peer_is_gone_ends_in_an_error_event(pair, far):
    """A peer that is stopped hard amid a stream leaves an error event, and its server an abort."""
    a, b = pair
    far.faults.add(StallAfterEvents(count=2))
    async with a.dial() as client:
        client.send("POST", "/v1/chat/completions", chat("y", stream=True))
        await client.head()
        await client.part()
        b.router.end_calls()
        rest = b""
        while part := await client.part():
            rest += part

    assert b'"error"' in rest
    assert b"[DONE]" not in rest
    await far.wait_aborts(1)


async def test_a_slow_reader_slows_the_far_server(federation, sockets, near):
    """Neither gateway keeps a stream whose client does not read."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 65536 + b'"}}]}\n\n'
    taken, wanted = [0], 64 * 2**20
    blocked = asyncio.Event()

    async def flood(call: Call, sink: Any) -> None:
        sink.start("text/event-stream")
        while taken[0] < wanted:
            taken[0] += len(event)
            if sink.write(event):
                draining = asyncio.ensure_future(sink.drain())
                done, _ = await asyncio.wait({draining}, timeout=1)
                if not done:
                    blocked.set()
                await draining

    async with (
        open_keeper(sockets, ScriptedBackend(ready("flood"), on_stream=flood)),
        federation(a=[], sections={"federation": asking_keeper(sockets)}) as (a,),
        a.dial() as client,
    ):
        await wait_ready(a, "flood")
        client.send("POST", "/v1/chat/completions", chat("flood", stream=True))
        await client.head()
        async with asyncio.timeout(BOUND_S):
            await blocked.wait()

    assert taken[0] < wanted


# Bounds and cancellation


@STREAMED
async def test_a_client_that_leaves_stops_the_far_server(pair, far, stream):
    """Cancelling passes both gateways."""
    far.faults.add(StallAfterEvents(count=2) if stream else StallBeforeHead())
    async with pair[0].dial() as client:
        client.send("POST", "/v1/chat/completions", chat("y", stream=stream))
        await far.wait_running(1)
        if stream:
            await client.head()

    await far.wait_aborts(1)


async def test_a_deadline_holds_at_the_far_server(pair, far):
    """The deadline of a gRPC client ends the call on both sides."""
    far.faults.add(StallBeforeHead(), times=3)
    client = RouterClient(pair[0].router.router.channel)
    call = inference_pb2.CallRequest(operation=1, body=chat("y"))
    with pytest.raises(BackendTimeoutError):
        await client.call(call, timeout_s=0.3)

    await far.wait_aborts(1)


async def test_a_silent_far_server_is_told_as_a_timeout(pair, far):
    """The bound on the first chunk holds at the far side, whose error comes back."""
    far.faults.add(StallBeforeHead(), times=3)
    client = RouterClient(pair[0].router.router.channel)
    call = inference_pb2.CallRequest(operation=1, body=chat("y"))
    call.first_chunk_timeout.FromMilliseconds(200)
    with pytest.raises(BackendTimeoutError) as caught:
        await client.call(call)

    assert caught.value.metadata["bound"] == "first_chunk"
    assert len(posts(far)) == 1


# What is told

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """A receiver of spans on a real socket."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()


@pytest.fixture
def spans() -> Any:
    receiver = Spans()
    yield receiver
    receiver.stop()


@STREAMED
async def test_one_trace_spans_both_gateways(federation, spans, far, stream):
    """The far router stands below the near one's attempt, in the caller's trace."""
    telemetry = {"otlp_endpoint": spans.endpoint, "sample_ratio": 1.0}
    async with federation(a=[], b=[far], sections={"telemetry": telemetry}) as (a, _b):
        await wait_ready(a, "y")
        parent = f"00-{TRACE}-b7ad6b7169203331-01"
        await a.post("/v1/chat/completions", chat("y", stream=stream), traceparent=parent)

    by_id = {span.span_id: span for span in spans.spans}
    routers = [span for span in spans.spans if "InferenceService" in span.name]
    [far_router] = [s for s in routers if by_id[s.parent_span_id].name == "chat y"]
    assert {span.trace_id.hex() for span in spans.spans} == {TRACE}
    assert len(routers) == 2
    assert by_id[by_id[far_router.parent_span_id].parent_span_id] in routers


async def keep(call: Call) -> Answer:
    """Answer; the backend itself keeps what it was told of who asks."""
    return Answer(b'{"choices":[{"finish_reason":"stop"}]}', "application/json")


@pytest.fixture
async def keeper(sockets) -> AsyncIterator[ScriptedBackend]:
    """The backend of the gateway `k`."""
    backend = ScriptedBackend(ready("kept"), on_call=keep)
    async with open_keeper(sockets, backend):
        yield backend


@pytest.mark.parametrize(
    ("way", "principal"),
    [
        (passage("a", principal={"id": "ann", "tenant": "theirs"}), Principal("ann@a", "guests")),
        (passage("b", principal={"id": "bob", "tenant": "theirs"}), Principal("bob@b", "b")),
        (passage("b"), Principal("b", "b")),
    ],
    ids=["mapped", "by default", "no principal"],
)
async def test_principals_of_a_peer_are_charged_here_as_settings_say(
    keeper, sockets, way, principal
):
    """The id is marked with the peer; the tenant is ours, never the one that the peer names."""
    async with aio.insecure_channel(f"unix:{sockets}/k") as channel:
        await stub_of(channel).Call(request("kept", way))

    assert keeper.calls[-1].principal == principal
    assert keeper.calls[-1].hops == tuple(way.hops)


# The catalog


async def test_a_peer_that_stops_is_down_and_comes_back(
    federation, open_gateway, sockets, near, far
):
    """A peer that stops is told, so that calls do not try it; one that is back is found."""
    async with federation(a=[near], b=[far]) as (a, b):
        await wait_ready(a, "y")
        await b.router.stop()
        await wait_ready(a, "y", 0)
        away = await a.post("/v1/chat/completions", chat("y"))
        sections = {
            "vllm": {"servers": [{"url": far.url, "cluster": "b"}]},
            "federation": {
                "name": "b",
                "listen": f"unix:{sockets}/b",
                "accept": [{"name": "a"}],
            },
        }
        async with open_gateway(**sections):
            await wait_ready(a, "y")
            back = await a.post("/v1/chat/completions", chat("y"))

    assert (away.status, back.status) == (503, 200)


async def test_what_a_peer_learns_is_learned_here(pair, far):
    """A server that goes down at the peer is down here, with the peer's reason."""
    a, _ = pair
    await far.pause_listening()
    await wait_ready(a, "y", 0)
    [target] = a.router.router.routes.resolve("y").targets

    assert target.report.state is EndpointState.DOWN
    assert target.report.state_reason
    await far.resume_listening()
    await wait_ready(a, "y")


async def test_a_name_that_is_not_the_peers_own_is_told(federation, sockets, open_gateway, near):
    """Lists of hops are made of names, so that a peer with another name is no use."""
    wrong = {"name": "other", "target": f"unix:{sockets}/b"}
    settings = {"name": "a", "peers": [wrong], "listen": f"unix:{sockets}/a"}
    async with (
        federation(b=[near]) as (_b,),
        open_gateway(federation=settings) as a,
    ):
        models = await a.get("/v1/models")

    assert models.json()["data"] == []


# More than two


@pytest.fixture
def ring() -> dict[str, str]:
    """`a` asks `b`, `b` asks `c`, `c` asks `a`."""
    return {"a": "b", "b": "c", "c": "a"}


@STREAMED
async def test_a_ring_passes_calls_on(federation, ring, far, stream):
    """What only the next but one has is answered through the next, and nobody has it twice."""
    async with federation(links=ring, a=[], b=[], c=[far]) as (a, b, c):
        for gateway in (a, b, c):
            await wait_ready(gateway, "y")
        answer = await a.post("/v1/chat/completions", chat("y", stream=stream))
        way = await answered_by(a)
        [target] = c.router.router.routes.resolve("y").targets

    assert answer.status == 200
    assert way == "c/vllm/y@b/c"
    assert target.report.via == ()


async def test_a_ring_ends_calls_that_fail_everywhere(federation, ring, near, far):
    """No call goes round: each server is asked for `max_attempts` at most."""
    async with federation(links=ring, a=[near], b=[], c=[far]) as (a, b, _c):
        await wait_ready(a, "both", 2)
        await wait_ready(b, "both", 2)
        for sim in (near, far):
            sim.faults.add(ErrorStatus(status=500), times=50)
        async with asyncio.timeout(5):
            answer = await a.post("/v1/chat/completions", chat("both"))

    assert answer.status == 503
    assert len(posts(near)) + len(posts(far)) <= 4


async def test_a_mesh_has_one_way_to_each_endpoint(federation, near, far):
    """Three that all list each other see each endpoint once, by the shortest way."""
    shortest = [[(), ("c",)], [("a",), ("c",)], [(), ("a",)]]
    async with federation(a=[near], b=[], c=[far]) as gateways:
        for gateway, ways in zip(gateways, shortest, strict=True):
            await wait_for(gateway, lambda g=gateway, ways=ways: ways_to(g, "both") == ways)


async def test_offers_beyond_the_hop_budget_are_left_out(federation, ring, near, far):
    """With a budget of one, only the peers' own endpoints are known."""
    async with federation(links=ring, hop_budget=1, a=[], b=[near], c=[far]) as (a, b, _c):
        await wait_ready(b, "both", 2)
        await wait_ready(a, "both", 1)
        models = await a.get("/v1/models")

    assert [model["id"] for model in models.json()["data"]] == ["both", "x"]


# Who may call, and what is refused


@pytest.fixture
async def far_stub(pair, sockets) -> AsyncIterator[Any]:
    """The peer service of `b`, and nothing between."""
    async with aio.insecure_channel(f"unix:{sockets}/b") as channel:
        yield stub_of(channel)


async def test_an_unknown_gateway_is_refused(far_stub):
    """Neither catalog nor calls are for those who are not accepted."""
    call = await refusal(far_stub.Call(request("y", passage("stranger"))))
    nameless = await refusal(far_stub.Call(request("y", passage())))
    watch = far_stub.WatchCatalog(peer_pb2.WatchCatalogRequest(gateway="stranger"))
    watched = await refusal(watch.read())

    assert [e.reason for e in (call, nameless, watched)] == ["PERMISSION_DENIED"] * 3


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (passage("b", "a"), "loop"),
        (passage("c", "d", "e", "a"), "hop_budget"),
        (passage("c", "a", hop_budget=1), "hop_budget"),
    ],
    ids=["loop", "own bound", "the caller's bound"],
)
async def test_a_call_that_leads_nowhere_is_refused(far_stub, way, reason):
    """Loops and long ways fail as unavailable, so that the calling gateway goes on elsewhere."""
    error = await refusal(far_stub.Call(request("y", way)))

    assert error.reason == "BACKEND_UNAVAILABLE"
    assert error.metadata["reason"] == reason


async def test_a_relayed_call_is_not_sent_back(far_stub, far):
    """What lies behind a gateway that the call has passed is no candidate."""
    error = await refusal(far_stub.Call(request("x", passage("a"))))

    assert error.reason == "BACKEND_UNAVAILABLE"
    assert error.metadata["reason"] == "loop"


async def test_a_gateway_is_not_offered_what_it_brought(far_stub):
    """The catalog that a peer sees leaves out what was learned through it."""
    watch = far_stub.WatchCatalog(peer_pb2.WatchCatalogRequest(gateway="a"))
    offers = (await watch.read()).offers
    watch.cancel()

    assert sorted(offer.ref.model for offer in offers) == ["both", "y"]
    assert all(not offer.via for offer in offers)


async def test_a_reload_changes_who_may_call(pair, sockets):
    """A gateway that is no longer accepted is refused at once, also where it watches already."""
    a, b = pair
    await wait_ready(a, "y")
    process = b.router
    settings = process._settings.sections["federation"].model_copy(update={"accept": ()})
    process._peers.configure(PluginSettings({"federation": settings}))
    await wait_ready(a, "y", 0)
    [target] = a.router.router.routes.resolve("y").targets
    await wait_for(a, lambda: target.endpoint.report.state_reason.endswith("this gateway"))

    assert target.report.state_reason == "the peer does not accept this gateway"
