from __future__ import annotations

import json

import pytest

from first_gateway_http.errors import RefusedError

DEEP = b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

BODIES = {
    "empty": (b"", "body", "empty"),
    "cut": (b'{"model":"m"', "body", "truncated"),
    "trailing": (b'{"model":"m"} x', "body", "byte"),
    "nan": (b'{"model":"m","x":NaN}', "body", "byte 17"),
    "control character": (b'{"model":"m","x":"\x01"}', "body", "byte 18"),
    "not utf-8": (b'{"model":"m","x":"\xff"}', "body", "byte 18"),
    "utf-16": ('{"model":"m"}'.encode("utf-16"), "body", "UTF-8"),
    "list": (b'["m"]', "body", "object"),
    "string": (b'"m"', "body", "object"),
    "null": (b"null", "body", "object"),
    "deep": (DEEP, "body", "nested"),
    "no model": (b"{}", "model", "missing"),
    "null model": (b'{"model":null}', "model", "str"),
    "number model": (b'{"model":1}', "model", "str"),
    "empty model": (b'{"model":""}', "model", "empty"),
    "blank model": (b'{"model":" "}', "model", "empty"),
    "long model": (b'{"model":"%s"}' % (b"x" * 513), "model", "512"),
    "stream text": (b'{"model":"m","stream":"true"}', "stream", "bool"),
    "stream number": (b'{"model":"m","stream":1}', "stream", "bool"),
}


@pytest.mark.parametrize("case", BODIES.values(), ids=BODIES.keys())
async def test_bad_body_is_refused(raw, router, post, case):
    """What is no JSON object with a model never reaches the router; the error says where."""
    body, param, word = case
    await raw.send(post("/v1/chat/completions", body, "content-type: application/json"))
    answer = await raw.answer()
    error = json.loads(answer.body)["error"]

    assert (answer.status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert word in error["message"]
    assert router.requests == []


async def test_last_of_two_models_counts(raw, router, post):
    """Doubled keys are the upstream's business; the bytes pass as they are."""
    body = b'{"model":1,"model":"m","model":"n"}'
    await raw.send(post("/v1/chat/completions", b'{"model":"m","model":"n"}'))
    answer = await raw.answer()

    assert answer.status == 200
    assert router.requests[0].body == body.replace(b'"model":1,', b"")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""],
)
async def test_other_content_types_are_refused(raw, router, post, content_type):
    """A body that does not call itself JSON gets 415."""
    await raw.send(post("/v1/chat/completions", b'{"model":"m"}', f"content-type: {content_type}"))
    answer = await raw.answer()

    assert answer.status == 415
    assert json.loads(answer.body)["error"]["code"] == "unsupported_media_type"
    assert router.requests == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; Charset=UTF-8",
        'application/json;charset="utf-8"',
        "application/vnd.x+json",
    ],
)
async def test_json_types_are_taken(raw, post, content_type):
    """JSON under any of its names is JSON."""
    await raw.send(post("/v1/chat/completions", b'{"model":"m"}', f"content-type: {content_type}"))

    assert (await raw.answer()).status == 200


async def test_missing_content_type_is_taken_for_json(raw, post):
    """Who says nothing sends JSON."""
    await raw.send(post("/v1/chat/completions", b'{"model":"m"}'))

    assert (await raw.answer()).status == 200


async def test_large_content_length_is_refused_unread(start, dial):
    """413 comes by the header, before one byte of the body."""
    raw = await dial((await start(max_body_bytes=1024)).url)
    await raw.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1025\r\n\r\n")
    answer = await raw.answer()

    assert answer.status == 413
    assert json.loads(answer.body)["error"]["code"] == "request_too_large"


async def test_large_chunked_body_is_cut_off(start, dial):
    """A body of unknown length is read up to the limit and no further."""
    raw = await dial((await start(max_body_bytes=1024)).url)
    await raw.send(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"401\r\n" + b"x" * 1025 + b"\r\n"
    )

    assert (await raw.answer()).status == 413


async def test_small_chunked_body_over_the_limit_is_refused(start, dial):
    """A chunked body that is whole already is measured too."""
    raw = await dial((await start(max_body_bytes=1024)).url)
    await raw.send(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        b"401\r\n" + b"x" * 1025 + b"\r\n0\r\n\r\n"
    )

    assert (await raw.answer()).status == 413


async def test_decompression_is_bounded(start, aiohttp_session):
    """A small body that unpacks to a large one is refused."""
    url = (await start(max_body_bytes=1024)).url
    body = b'{"model":"m","x":"' + b"x" * 1_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    async with aiohttp_session.post(
        f"{url}/v1/embeddings", data=body, compress="gzip", headers=headers
    ) as answer:
        status = answer.status

    assert status == 413


async def test_client_that_asks_first_need_not_send_a_large_body(start, dial):
    """With `Expect: 100-continue` a body over the limit is refused before it is sent."""
    raw = await dial((await start(max_body_bytes=1024)).url)
    await raw.send(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n"
        b"expect: 100-continue\r\n\r\n"
    )

    assert (await raw.answer()).status == 413


async def test_client_that_asks_first_is_told_to_go_on(raw, router):
    """With `Expect: 100-continue` a body within the limit is asked for."""
    await raw.send(
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 13\r\n"
        b"expect: 100-continue\r\n\r\n"
    )
    asked = await raw.reader.readuntil(b"\r\n\r\n")
    await raw.send(b'{"model":"m"}')
    answer = await raw.answer()

    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.body == router.answer.body


async def test_slow_body_times_out(start, dial, clock, router):
    """A body that does not come in time gets 408, and the connection ends."""
    raw = await dial((await start(body_timeout_s=60.0)).url)
    await raw.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    await clock.wait_timers()
    clock.advance(60)
    answer = await raw.answer()

    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert json.loads(answer.body)["error"]["code"] == "request_timeout"
    assert await raw.is_closed()


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\nho"], ids=["nothing", "half"])
async def test_slow_headers_time_out(start, dial, data):
    """A connection on which no whole request comes in time ends."""
    raw = await dial((await start(keepalive_s=0.01)).url)
    await raw.send(data)

    assert await raw.is_closed()


@pytest.mark.parametrize(
    "rest",
    [
        b"content-encoding: gzip\r\ncontent-length: 13\r\n\r\n" + b'{"model":"m"}',
        b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["gzip", "chunk size"],
)
async def test_broken_framing_is_refused(raw, router, rest):
    """A body that cannot be unpacked is the caller's error."""
    await raw.send(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n" + rest)
    answer = await raw.answer()

    assert answer.status == 400
    assert "error" in json.loads(answer.body)
    assert router.requests == []


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        (
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
        ),
        b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ],
    ids=["text", "tls", "header", "long", "many", "two lengths", "smuggling", "negative"],
)
async def test_bad_http_gets_a_json_error(raw, data):
    """What is no proper HTTP gets 400 in JSON, and the connection ends."""
    await raw.send(data)
    answer = await raw.answer()

    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert json.loads(answer.body)["error"]["code"] == "bad_request"
    assert await raw.is_closed()


@pytest.mark.parametrize("value", ["é", "a\x01b"])
async def test_odd_credential_is_refused(raw, post, value):
    """A credential that gRPC cannot carry is the caller's error."""
    request = post("/v1/embeddings", b'{"model":"m"}', f"authorization: Bearer {value}")
    await raw.send(request)

    assert (await raw.answer()).status == 400


async def test_long_session_id_is_refused(raw, post):
    """A session id has at most 256 characters."""
    await raw.send(post("/v1/embeddings", b'{"model":"m"}', f"x-session-id: {'x' * 257}"))
    answer = await raw.answer()

    assert json.loads(answer.body)["error"]["param"] == "x-session-id"


async def test_pipelined_requests_are_answered_in_order(raw, router, post):
    """A client may send before it has read, and gets its answers in order."""
    await raw.send(
        post("/v1/embeddings", b'{"model":"m"}', "x-request-id: a")
        + b"GET /nowhere HTTP/1.1\r\nhost: x\r\nx-request-id: b\r\n\r\n"
        + post("/v1/embeddings", b"{", "x-request-id: c")
    )
    answers = [await raw.answer() for _ in range(3)]

    assert [answer.headers["x-request-id"] for answer in answers] == ["a", "b", "c"]
    assert [answer.status for answer in answers] == [200, 404, 400]


@pytest.mark.parametrize(
    ("path", "is_anthropic"),
    [("/nowhere", False), ("/v1/messages/nowhere", True), ("/resource_server/a/b/c", False)],
)
async def test_unknown_path_is_not_found(http, path, is_anthropic):
    """A path that leads nowhere gets JSON in the dialect that the path suggests."""
    async with http.post(path, data=b"{}") as answer:
        error = await answer.json()

    assert answer.status == 404
    assert (error.get("type") == "error") is is_anthropic


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/messages", "POST"),
        ("OPTIONS", "/v1/messages", "POST"),
        ("GET", "/resource_server/a/b/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/v1/models/a/b", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_told_the_right_one(http, method, path, allow):
    """A method that a path does not have gets 405 with `Allow`."""
    async with http.request(method, path) as answer:
        document = await answer.json()

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert "error" in document


def test_refusals_are_the_callers_errors():
    """A refusal is of the error tree, so that nobody needs to know it apart."""
    error = RefusedError("no", status=413, code="x")

    assert error.reason == "INVALID_REQUEST"
