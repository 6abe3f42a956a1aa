"""Traces hang together from client to upstream, metrics add up, and nothing private is told."""

from __future__ import annotations

import json
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorInside,
    ErrorStatus,
    Simulator,
    SimulatorSettings,
    StallBeforeHead,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": "vendor=value"}
STREAMED = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
METRICS = {"metrics_listen": "127.0.0.1:0"}


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """A receiver of spans on a real socket."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[Span] = []
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Export(self, request, context):  # noqa: N802 - gRPC's name
        self.raw += request.SerializeToString()
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, part: str) -> list[Span]:
        """Return the spans with this in their name, in order."""
        found = [span for span in self.spans if part in span.name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def stop(self) -> None:
        self._server.stop(grace=None).wait()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.stop()


@pytest.fixture
def traced(open_gateway, receiver):
    """Open a gateway that records each trace; what it recorded is there once it is closed."""

    def opener(*sims: Simulator, **sections: Any) -> Any:
        telemetry = {"otlp_endpoint": receiver.endpoint, "sample_ratio": 1.0}
        return open_gateway(*sims, telemetry=telemetry, **sections)

    return opener


def chat(*, stream: bool) -> dict[str, Any]:
    return {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "hi"}]}


@STREAMED
async def test_all_spans_of_a_call_hang_together(traced, receiver, sim, stream):
    """Front, router and attempt stand below the caller's span, the upstream below the attempt."""
    async with traced(sim) as gateway:
        await gateway.post("/v1/chat/completions", chat(stream=stream), **TRACED)

    [front] = receiver.named("POST /v1/chat/completions")
    [router] = receiver.named("first.v1.InferenceService/")
    [attempt] = receiver.named("chat m")
    assert {span.trace_id.hex() for span in receiver.spans} == {TRACE}
    assert front.parent_span_id.hex() == CALLER
    assert router.parent_span_id == front.span_id
    assert attempt.parent_span_id == router.span_id
    headers = sim.posts[-1][2]
    assert headers["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert headers["tracestate"] == "vendor=value"


async def test_each_attempt_has_its_own_span(traced, receiver, sim, other_sim):
    """A failed attempt says why, and both upstreams saw their own attempt's id."""
    sim.faults.add(ErrorStatus(status=500))
    async with traced(sim, other_sim) as gateway:
        await gateway.post("/v1/chat/completions", chat(stream=False), **TRACED)

    first, second = receiver.named("chat m")
    told = [s.posts[-1][2]["traceparent"].split("-")[2] for s in (sim, other_sim)]
    assert told == [first.span_id.hex(), second.span_id.hex()]
    assert _attribute(first, "error.type") == "BACKEND_UNAVAILABLE"
    assert _attribute(second, "error.type") is None
    assert [_attribute(span, "first.attempt") for span in (first, second)] == ["1", "2"]
    assert _attribute(second, "first.cluster") == "b"


def _attribute(span: Span, name: str) -> str | None:
    """Return an attribute as text."""
    for pair in span.attributes:
        if pair.key == name:
            kind = pair.value.WhichOneof("value")
            return str(getattr(pair.value, kind))
    return None


async def test_usage_stands_in_the_spans(traced, receiver, sim):
    """The attempt tells model, tokens and finish as the conventions name them."""
    async with traced(sim) as gateway:
        answer = await gateway.post("/v1/chat/completions", chat(stream=False), **TRACED)

    usage = answer.json()["usage"]
    [attempt] = receiver.named("chat m")
    assert _attribute(attempt, "gen_ai.request.model") == "m"
    assert _attribute(attempt, "gen_ai.usage.output_tokens") == str(usage["completion_tokens"])
    assert _attribute(attempt, "gen_ai.usage.input_tokens") == str(usage["prompt_tokens"])


async def test_an_unsampled_trace_stays_unsampled(traced, receiver, sim):
    """The caller decides: nothing is recorded, and the upstream hears the same trace id."""
    async with traced(sim) as gateway:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
        await gateway.post("/v1/chat/completions", chat(stream=False), **headers)

    version, trace, span, flags = sim.posts[-1][2]["traceparent"].split("-")
    assert receiver.spans == []
    assert (version, trace, flags) == ("00", TRACE, "00")
    assert span != CALLER


@pytest.mark.parametrize("given", ["", "00-0-0-01", f"00-{'0' * 32}-{CALLER}-01", "ff-x"])
async def test_a_trace_that_is_none_begins_anew(traced, receiver, sim, given):
    """A traceparent that is not valid is dropped, and a new trace begins at the front."""
    async with traced(sim) as gateway:
        await gateway.post("/v1/chat/completions", chat(stream=False), traceparent=given)

    [front] = receiver.named("POST /v1/chat/completions")
    assert front.parent_span_id == b""
    assert {span.trace_id for span in receiver.spans} == {front.trace_id}
    assert front.trace_id.hex() in sim.posts[-1][2]["traceparent"]


async def test_a_refused_request_has_a_span_too(traced, receiver, sim):
    """What never became a call is still seen in its trace."""
    async with traced(sim) as gateway:
        await gateway.post("/v1/chat/completions", b"{", **TRACED)

    [front] = receiver.named("POST /v1/chat/completions")
    assert _attribute(front, "error.type") == "INVALID_REQUEST"


SECRETS = {
    "prompt": "my-private-prompt",
    "client_key": "sk-clientkey0123456789abcdef",
    "server_key": "sk-serverkey0123456789abcdef",
    "session": "secret-session-42",
}


async def test_nothing_private_is_told(traced, receiver, monkeypatch, capfd):
    """No span, no log line and no metric holds prompt, answer, key or session."""
    monkeypatch.setenv("SERVER_KEY", SECRETS["server_key"])
    settings = SimulatorSettings(models=("m",), api_key=SECRETS["server_key"])
    faults = [
        None,
        ErrorStatus(status=500, message=f"failed on {SECRETS['prompt']}"),
        ErrorStatus(status=400, message=f"refused {SECRETS['prompt']}"),
        ErrorStatus(status=401, message=f"bad key {SECRETS['server_key']}"),
        ErrorInside(message=f"failed on {SECRETS['prompt']}"),
        CutAfterEvents(count=3),
    ]
    async with Simulator(settings) as sim:
        server = {"url": sim.url, "api_key": {"env": "SERVER_KEY"}}
        log = {"level": "debug", "calls": True}
        async with traced(vllm={"servers": [server]}, log=log) as gateway:
            for fault in faults:
                await _call_privately(gateway, sim, fault)
            metrics = await gateway.get("/metrics")

    lines = capfd.readouterr().err
    told = receiver.raw + lines.encode() + metrics.body
    assert [json.loads(line)["message"] for line in lines.splitlines()].count("call_ended") >= 12
    assert len(receiver.named("chat m")) == 12
    assert [name for name, secret in SECRETS.items() if secret.encode() in told] == []
    assert b"(simulated" not in told


async def _call_privately(gateway: Any, sim: Simulator, fault: Any) -> None:
    """Make the same call streamed and plain, with a fault that meets both."""
    for stream in (True, False):
        if fault is not None:
            sim.faults.add(fault)
        await gateway.post(
            "/v1/chat/completions",
            {**chat(stream=stream), "messages": [{"role": "user", "content": SECRETS["prompt"]}]},
            authorization=f"Bearer {SECRETS['client_key']}",
            x_alcf_session_id=SECRETS["session"],
            **TRACED,
        )


async def test_calls_are_counted(open_gateway, sim):
    """Calls, tokens and the time to the first chunk add up, by operation and model."""
    async with open_gateway(sim, telemetry=METRICS) as gateway:
        plain = await gateway.chat()
        await gateway.chat(stream=True)
        await gateway.post("/v1/embeddings", {"model": "m", "input": "x"})
        usage = plain.json()["usage"]

        ok = {"outcome": "ok", "model": "m"}
        assert await gateway.sample("first_calls_total", operation="chat", **ok) == 2
        assert await gateway.sample("first_calls_total", operation="embedding", **ok) == 1
        output = await gateway.sample("first_tokens_total", model="m", direction="output")
        assert output == 2 * usage["completion_tokens"]
        first_chunks = "first_time_to_first_chunk_seconds_count"
        assert await gateway.sample(first_chunks, operation="chat", model="m") == 1
        assert await gateway.sample("first_attempts_total", cluster="a", outcome="ok") == 3
        assert await gateway.sample("first_calls_in_flight") == 0


FAILURES = [
    (ErrorStatus(status=500), {}, "backend", "BACKEND_UNAVAILABLE"),
    (ErrorStatus(status=429), {}, "capacity", "LIMIT_EXCEEDED"),
    (ErrorStatus(status=400), {}, "caller", "UPSTREAM_REJECTED"),
    (CutAfterEvents(count=3), {"stream": True}, "backend", "STREAM_TRUNCATED"),
    (None, {"model": "nope"}, "caller", "NOT_FOUND"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=[failure[-1] for failure in FAILURES])
async def test_errors_are_counted_by_class(open_gateway, sim, failure):
    """Each failed call counts once, under its class and reason."""
    fault, fields, error_class, reason = failure
    async with open_gateway(sim, telemetry=METRICS) as gateway:
        if fault is not None:
            sim.faults.add(fault)
        await gateway.chat(**fields)

        assert await gateway.sample("first_call_errors_total") == 1
        labels = {"class": error_class, "reason": reason, "operation": "chat"}
        assert await gateway.sample("first_call_errors_total", **labels) == 1
        assert await gateway.sample("first_calls_in_flight") == 0


async def test_a_running_call_is_in_flight_until_its_client_leaves(open_gateway, sim):
    """The gauge shows it while it runs, and not once it was cancelled."""
    sim.faults.add(StallBeforeHead())
    async with open_gateway(sim, telemetry=METRICS) as gateway:
        async with gateway.dial() as client:
            body = json.dumps(chat(stream=True)).encode()
            client.send("POST", "/v1/chat/completions", body)
            await sim.wait_running(1)
            running = await gateway.sample("first_calls_in_flight", operation="chat")
        await gateway.watch.wait(1)

        assert running == 1
        assert await gateway.sample("first_calls_in_flight") == 0
        assert await gateway.sample("first_call_errors_total", reason="CANCELLED") == 1
