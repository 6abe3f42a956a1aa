from __future__ import annotations

import io

import pytest
from yarl import URL

from first_core.errors import BackendUnavailableError, NotFoundError
from first_proto.v1 import inference_pb2

BODY = b'{"model": "m",  "messages": [], "unknown": {"x": 1.0e5}, "z": "\xc3\xa9"}'


@pytest.fixture
def http(http):
    """The client of the shared fixture, with JSON as its default type."""
    http.headers["content-type"] = "application/json"
    return http


PATHS = {
    "/v1/chat/completions": 1,
    "/v1/completions": 2,
    "/v1/embeddings": 3,
    "/v1/responses": 4,
    "/v1/messages": 5,
    "/v1/rerank": 6,
    "/rerank": 6,
    "/v1/score": 7,
    "/score": 7,
    "/tokenize": 8,
    "/detokenize": 9,
    "/v1/messages/count_tokens": 11,
    "/v1/v1/messages": 5,
    "/v1/v1/chat/completions": 1,
    "/resource_server/v1/chat/completions": 1,
    "/resource_server/v1/v1/messages": 5,
    "/resource_server/alpha/vllm/v1/responses": 4,
    "/resource_server/alpha/api/v1/v1/messages": 5,
}


@pytest.mark.parametrize(("path", "operation"), PATHS.items())
async def test_paths_name_operations(http, router, path, operation):
    """Each path is one operation, also below the base of today's FIRST and with `v1` doubled."""
    async with http.post(path, data=BODY) as answer:
        status = answer.status

    assert status == 200
    assert [request.operation for request in router.requests] == [operation]


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
async def test_bytes_pass_both_ways_untouched(http, router):
    """The router sees the body byte for byte, and the client the answer, type included."""
    router.answer.body = b' {"odd":  "\xc3\xa9"}\n'
    router.answer.content_type = "application/vnd.odd+json"
    async with http.post("/v1/chat/completions", data=BODY) as answer:
        body = await answer.read()

    assert router.requests[0].body == BODY
    assert body == router.answer.body
    assert answer.headers["content-type"] == "application/vnd.odd+json"


async def test_answer_tells_endpoint_and_attempts(http):
    """The client learns who answered, after how many attempts, and nothing of the server."""
    async with http.post("/v1/chat/completions", data=BODY) as answer:
        headers = answer.headers

    assert headers["x-first-endpoint"] == "alpha/vllm/m"
    assert headers["x-first-attempts"] == "2"
    assert headers["server"] == "first-gateway"


@pytest.mark.parametrize(
    ("path", "pin"),
    [
        ("/v1/chat/completions", ("", "")),
        ("/resource_server/v1/chat/completions", ("", "")),
        ("/resource_server/alpha/vllm/v1/chat/completions", ("alpha", "vllm")),
        ("/resource_server/alpha/api/v1/chat/completions", ("alpha", "")),
        ("/resource_server/al%2Fpha/vllm/v1/chat/completions", ("al/pha", "vllm")),
    ],
)
async def test_path_pins_the_call(http, router, path, pin):
    """Cluster and framework of the path restrict the call; `api` means any framework."""
    async with http.post(URL(path, encoded=True), data=BODY):
        pass

    [request] = router.requests
    assert (request.pin.cluster, request.pin.framework) == pin


async def test_unsaid_fields_stay_unset(http, router):
    """What the client does not say is left to the router."""
    async with http.post("/v1/chat/completions", data=BODY):
        pass

    [request] = router.requests
    assert {field.name for field, _ in request.ListFields()} == {"operation", "body"}


async def test_allowed_headers_travel_in_the_request(http, router):
    """Headers of the list go on in lower case; all others stay here, credentials above all."""
    headers = {
        "Anthropic-Beta": "a",
        "X-ALCF-Session-ID": "s",
        "Cookie": "c=1",
        "Authorization": "Bearer t",
        "X-Other": "o",
    }
    async with http.post("/v1/messages", data=BODY, headers=headers):
        pass

    assert dict(router.requests[0].headers) == {"anthropic-beta": "a", "x-alcf-session-id": "s"}


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ({"authorization": "Bearer t"}, "Bearer t"),
        ({"x-api-key": "k"}, "Bearer k"),
        ({"x-api-key": "k", "authorization": "Bearer t"}, "Bearer t"),
        ({}, None),
    ],
)
async def test_credential_travels_in_metadata(http, router, headers, credential):
    """A bearer credential goes on as it is, an API key as one, the former first."""
    async with http.post("/v1/messages", data=BODY, headers=headers):
        pass

    assert router.metadata[0].get("authorization") == credential


@pytest.mark.parametrize("name", ["x-session-id", "x-alcf-session-id"])
async def test_session_header_becomes_the_session_key(http, router, name):
    """Both names of the header keep a session together."""
    async with http.post("/v1/chat/completions", data=BODY, headers={name: "s-1"}):
        pass

    assert router.requests[0].session_key == "s-1"


async def test_wait_header_becomes_the_wait_budget(http, router):
    """`x-first-wait` is in seconds, and may have fractions."""
    async with http.post("/v1/chat/completions", data=BODY, headers={"x-first-wait": "1.5"}):
        pass

    assert router.requests[0].wait_budget.ToMilliseconds() == 1500


async def test_zero_wait_is_said(http, router):
    """A client that does not want to wait says 0, which is not the same as saying nothing."""
    async with http.post("/v1/chat/completions", data=BODY, headers={"x-first-wait": "0"}):
        pass

    assert router.requests[0].HasField("wait_budget")


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e9"])
async def test_odd_wait_is_refused(http, router, value):
    """A wait that is no number of seconds up to a day is the caller's error."""
    async with http.post(
        "/v1/chat/completions", data=BODY, headers={"x-first-wait": value}
    ) as answer:
        error = (await answer.json())["error"]

    assert (answer.status, error["param"], router.requests) == (400, "x-first-wait", [])


async def test_priority_header_becomes_the_priority(http, router):
    """`x-first-priority` says which calls go first while calls wait."""
    for value in ("batch", "interactive"):
        headers = {"x-first-priority": value}
        async with http.post("/v1/chat/completions", data=BODY, headers=headers):
            pass

    priorities = [request.priority for request in router.requests]
    assert priorities == [inference_pb2.PRIORITY_BATCH, inference_pb2.PRIORITY_INTERACTIVE]


async def test_continuation_header_forbids_to_continue(http, router):
    """`x-first-continuation: off` keeps a stream at the endpoint that began it; `on` is usual."""
    for value in ("off", "on"):
        headers = {"x-first-continuation": value}
        async with http.post("/v1/chat/completions", data=BODY, headers=headers):
            pass

    assert [request.continuation_disabled for request in router.requests] == [True, False]


@pytest.mark.parametrize("name", ["x-first-priority", "x-first-continuation"])
@pytest.mark.parametrize("value", ["", "yes", "0", "batch, interactive"])
async def test_odd_control_headers_are_refused(http, router, name, value):
    """A value that the header does not have is the caller's error, which names the header."""
    async with http.post("/v1/chat/completions", data=BODY, headers={name: value}) as answer:
        error = (await answer.json())["error"]

    assert (answer.status, error["param"], router.requests) == (400, name, [])


async def test_error_tells_endpoint_and_attempts(http, router):
    """An error names who was asked last, and how often it was tried."""
    told = {"last_endpoint": "alpha/vllm/m", "attempt_count": "3"}
    router.error = BackendUnavailableError("it failed", metadata=told)
    async with http.post("/v1/chat/completions", data=BODY) as answer:
        headers = answer.headers

    assert answer.status == 503
    assert headers["x-first-endpoint"] == "alpha/vllm/m"
    assert headers["x-first-attempts"] == "3"


async def test_error_without_attempt_names_no_endpoint(http, router):
    """Where nobody was asked, there is nothing to name."""
    router.error = NotFoundError("no such model", metadata={"model": "m"})
    async with http.post("/v1/chat/completions", data=BODY) as answer:
        headers = answer.headers

    assert not {"x-first-endpoint", "x-first-attempts"} & set(headers)


@pytest.mark.parametrize("given", ["abc-1", "x" * 128, "~!{}"])
async def test_fit_request_id_is_kept(http, router, given):
    """A client's own request id names the request everywhere."""
    async with http.post(
        "/v1/chat/completions", data=BODY, headers={"x-request-id": given}
    ) as answer:
        pass

    assert answer.headers["x-request-id"] == given
    assert router.metadata[0]["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "é", "a\tb"])
async def test_unfit_request_id_is_replaced(http, router, given):
    """An id that is no 1 to 128 visible ASCII characters gives way to a new one."""
    async with http.post(
        "/v1/chat/completions", data=BODY, headers={"x-request-id": given}
    ) as answer:
        pass

    made = answer.headers["x-request-id"]
    assert len(made) == 32
    assert router.metadata[0]["x-request-id"] == made


async def test_trace_goes_on(http, router):
    """The router gets a span of the client's trace, and the client's trace state."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "tracestate": "a=1"}
    async with http.post("/v1/chat/completions", data=BODY, headers=headers):
        pass

    assert router.metadata[0]["traceparent"].split("-")[1] == trace
    assert router.metadata[0]["tracestate"] == "a=1"


async def test_span_covers_the_call(http, watch_spans):
    """One server span per call, named by its route, ended without error."""
    async with http.post("/v1/chat/completions", data=BODY, headers={"x-request-id": "r"}):
        pass

    [span] = watch_spans
    assert span.attributes == {"first.request_id": "r"}
    assert set(span.ends) == {None}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank", "/v1/score", "/tokenize"])
async def test_stream_means_nothing_where_nothing_streams(http, router, path):
    """Operations that cannot stream answer whole, whatever `stream` says."""
    async with http.post(path, data=b'{"model":"m","stream":true}') as answer:
        body = await answer.read()

    assert body == router.answer.body


async def test_large_body_passes(http, router):
    """A body of 20 MiB, the default limit, passes whole."""
    head = b'{"model":"m","input":"'
    body = head + b"x" * (20 * 1024 * 1024 - len(head) - 2) + b'"}'
    async with http.post("/v1/embeddings", data=io.BytesIO(body)) as answer:
        status = answer.status

    assert status == 200
    assert router.requests[0].body == body


async def test_large_answer_passes(http, router):
    """An answer of several megabytes passes whole."""
    router.answer.body = b"x" * 5_000_000
    async with http.post("/v1/embeddings", data=BODY) as answer:
        body = await answer.read()

    assert body == router.answer.body


async def test_compressed_body_passes_decompressed(http, router):
    """A gzip body reaches the router as the JSON that it is."""
    async with http.post("/v1/embeddings", data=BODY, compress="gzip") as answer:
        status = answer.status

    assert status == 200
    assert router.requests[0].body == BODY


@pytest.mark.parametrize("name", ["modèle", "a\r\nb"])
async def test_odd_endpoint_names_are_quoted(http, router, name):
    """A model name cannot break the answer's headers."""
    router.answer.head.endpoint.model = name
    async with http.post("/v1/chat/completions", data=BODY) as answer:
        told = answer.headers["x-first-endpoint"]

    assert told.isascii()
    assert told.startswith("alpha/vllm/")
