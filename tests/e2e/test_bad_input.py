"""Bad requests are refused with a status, a truthful message and the client's dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
GOOD = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
JSON = "application/json"


def deep(depth: int) -> bytes:
    return b'{"model":"m","messages":' + b"[" * depth + b"]" * depth + b"}"


BODIES = [
    pytest.param(b"", JSON, 400, "body", id="empty"),
    pytest.param(b"{", JSON, 400, "body", id="cut"),
    pytest.param(b"hello", JSON, 400, "body", id="text"),
    pytest.param(b"[]", JSON, 400, "body", id="a list"),
    pytest.param(b"null", JSON, 400, "body", id="null"),
    pytest.param(GOOD + b"x", JSON, 400, "body", id="more behind"),
    pytest.param(b'{"model":"m","x":"\xff"}', JSON, 400, "body", id="no UTF-8"),
    pytest.param(b"\xef\xbb\xbf" + GOOD, JSON, 400, "body", id="byte order mark"),
    pytest.param(GOOD.decode().encode("utf-16"), JSON, 400, "body", id="UTF-16"),
    pytest.param(b'{"model":"m","x":NaN}', JSON, 400, "body", id="NaN"),
    pytest.param(deep(100_000), JSON, 400, "body", id="nested too deeply"),
    pytest.param(b'{"messages":[]}', JSON, 400, "model", id="no model"),
    pytest.param(b'{"model":null}', JSON, 400, "model", id="model null"),
    pytest.param(b'{"model":7}', JSON, 400, "model", id="model a number"),
    pytest.param(b'{"model":["m"]}', JSON, 400, "model", id="model a list"),
    pytest.param(b'{"model":""}', JSON, 400, "model", id="model empty"),
    pytest.param(b'{"model":"' + b"m" * 5000 + b'"}', JSON, 400, "model", id="model too long"),
    pytest.param(b'{"model":"nope"}', JSON, 404, "model", id="model unknown"),
    pytest.param(b'{"model":"m\\u0000\\n"}', JSON, 404, "model", id="control characters"),
    pytest.param(b'{"model":"m","stream":"yes"}', JSON, 400, "stream", id="stream a string"),
    pytest.param(b'{"model":"m","stream":1}', JSON, 400, "stream", id="stream a number"),
    pytest.param(GOOD, "text/plain", 415, "content-type", id="text/plain"),
    pytest.param(GOOD, "multipart/form-data; boundary=x", 415, "content-type", id="a form"),
    pytest.param(GOOD, "application/json; charset=latin-1", 415, "content-type", id="latin-1"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "content_type", "status", "field"), BODIES)
async def test_openai_clients_hear_which_field_is_wrong(
    gateway, sim, *, body, content_type, status, field
):
    """A wrong body is refused, its field is named, and no upstream hears of it."""
    answer = await gateway.post(CHAT, body, content_type=content_type)

    error = answer.json()["error"]
    assert (answer.status, error["param"]) == (status, field)
    assert error["message"]
    assert sim.posts == []


@pytest.mark.parametrize(("body", "content_type", "status", "field"), BODIES)
async def test_anthropic_clients_hear_it_in_their_dialect(
    gateway, sim, *, body, content_type, status, field
):
    """The same on `/v1/messages`, in Anthropic's shape."""
    answer = await gateway.post(MESSAGES, body, content_type=content_type)

    told = answer.json()
    assert (answer.status, told["type"]) == (status, "error")
    assert told["error"]["type"] in {"invalid_request_error", "not_found_error"}
    assert answer.headers["request-id"] == told["request_id"]
    assert sim.posts == []


@pytest.mark.parametrize(
    "body",
    [
        GOOD.replace(b'{"model"', b'{"model":"other","model"'),
        GOOD.replace(b'"model"', b'"\\u006dodel"'),
        b" \r\n\t" + GOOD + b"\n ",
        GOOD[:-1] + b',"x":' + b"[" * 100 + b"]" * 100 + b"}",
        GOOD[:-1] + b',"x":123456789012345678901234567890.5e99}',
    ],
    ids=["last key wins", "escaped key", "white space", "nested", "large number"],
)
async def test_odd_but_valid_bodies_pass_unchanged(gateway, sim, body):
    """What is valid JSON goes on as it is."""
    answer = await gateway.post(CHAT, body)

    assert answer.status == 200
    assert sim.posts[-1][3] == body


async def test_the_last_of_two_models_is_asked_for(open_gateway, sim):
    """Of a repeated `model` the last one counts, here as at the upstream, and is renamed."""
    provider = {
        "name": "p",
        "base_url": f"{sim.url}/v1",
        "models": [{"name": "x", "upstream_name": "m"}],
    }
    async with open_gateway(direct={"providers": [provider]}) as gateway:
        answer = await gateway.post(
            CHAT, GOOD.replace(b'{"model":"m"', b'{"model":"y","model":"x"')
        )

    assert answer.status == 200
    assert sim.posts[-1][3] == GOOD.replace(b'{"model":"m"', b'{"model":"y","model":"m"')


@pytest.fixture
async def small(open_gateway, sim):
    """A gateway that takes bodies of 2,000 bytes and waits 0.2 s for them."""
    http = {
        "listen": "127.0.0.1:0",
        "max_body_bytes": 2000,
        "body_timeout_s": 0.2,
        "keepalive_s": 5,
    }
    async with open_gateway(sim, http=http) as opened:
        yield opened


@pytest.mark.parametrize("expect", [{}, {"expect": "100-continue"}], ids=["", "expect"])
async def test_a_body_announced_as_too_large_is_refused_unread(small, expect):
    """413 comes on the head alone; nothing of the body needs to be sent."""
    async with small.dial() as client:
        client.send("POST", CHAT, content_length="2001", **expect)
        answer = await client.answer()

    assert answer.status == 413
    assert answer.json()["error"]["code"] == "request_too_large"


async def test_a_chunked_body_that_grows_too_large_is_refused(small):
    """413 comes as soon as too much has come, before the end."""
    async with small.dial() as client:
        client.write(
            b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        client.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        client.write(b"3e9\r\n" + b"x" * 1001 + b"\r\n")
        answer = await client.answer()

    assert answer.status == 413


async def test_a_body_of_just_the_limit_passes(small):
    """The limit itself is allowed."""
    body = GOOD + b" " * (2000 - len(GOOD))

    assert (await small.post(CHAT, body)).status == 200


async def test_a_slow_sender_is_cut_off(small, sim):
    """A body that does not come in time is answered 408, and the connection ends."""
    async with small.dial() as client:
        client.send("POST", CHAT, GOOD[:10], content_length=str(len(GOOD)))
        answer = await client.answer()
        rest = await client.wait_closed()

    assert (answer.status, rest) == (408, b"")
    assert sim.posts == []


@pytest.mark.parametrize(
    "headers",
    [{f"x-{n}": "y" for n in range(5000)}, {"x": "y" * 200_000}],
    ids=["many", "large"],
)
async def test_a_flood_of_headers_is_refused(gateway, headers):
    """More headers than anybody needs are refused, and the gateway goes on."""
    async with gateway.dial() as client:
        client.send("POST", CHAT, GOOD, **headers)
        answer = await client.answer()

    assert answer.status in {400, 431}
    assert answer.json()["error"]["message"]
    assert (await gateway.chat()).status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"GET\r\n\r\n",
        b"POST /v1/chat/completions HTTP/9.9\r\n\r\n",
    ],
    ids=["TLS", "no path", "unknown version"],
)
async def test_what_is_no_http_is_refused(gateway, data):
    """Bytes that are no HTTP request get a 400 and the connection ends."""
    async with gateway.dial() as client:
        client.write(data)
        said = await client.wait_closed()

    assert said.split(b" ")[1] == b"400"
    assert (await gateway.chat()).status == 200


async def test_two_lengths_are_refused(gateway, sim):
    """A request that could be read in two ways is read in none (RFC 9112, 6.3)."""
    async with gateway.dial() as client:
        client.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
            b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /"
        )
        answer = await client.answer()

    assert answer.status == 400
    assert sim.posts == []


async def test_pipelined_requests_are_answered_in_order(gateway):
    """Requests sent at once on one connection get their answers in that order."""
    async with gateway.dial() as client:
        for number in range(5):
            client.send(
                "POST",
                CHAT,
                _asking(f"question {number}", stream=number % 2 == 0),
                x_request_id=str(number),
            )
        client.send("GET", "/nowhere", x_request_id="5")
        answers = [await client.answer() for _ in range(6)]

    assert [answer.headers["x-request-id"] for answer in answers] == list("012345")
    assert [answer.status for answer in answers] == [200] * 5 + [404]
    for number in range(5):
        assert f"chatcmpl-{number}".encode() in answers[number].body


def _asking(text: str, **fields: Any) -> bytes:
    return json.dumps(
        {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    ).encode()


async def test_a_refusal_leaves_the_connection_usable(gateway):
    """After a refused request the next one on the same connection is answered."""
    async with gateway.dial() as client:
        client.send("POST", CHAT, b"{")
        first = await client.answer()
        client.send("POST", CHAT, GOOD)
        second = await client.answer()

    assert (first.status, second.status) == (400, 200)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/chat", 404),
        ("GET", CHAT, 405),
        ("PUT", CHAT, 405),
        ("DELETE", MESSAGES, 405),
        ("POST", "/v1/models", 405),
        ("OPTIONS", CHAT, 405),
        ("PROPFIND", CHAT, 405),
        ("GET", "/v1/messages/nowhere", 404),
        ("GET", "/%zz/../..//etc/passwd", 404),
        ("POST", "/resource_server/a/vllm/v1/nowhere", 404),
        ("GET", "/resource_server/a/vllm/v1/chat/completions", 405),
    ],
)
async def test_wrong_paths_and_methods(gateway, straight, method, path, status):
    """A path that leads nowhere is 404, a method that it does not have 405, in the dialect."""
    answer = await straight(gateway.url, method, path)

    assert answer.status == status
    assert ("allow" in answer.headers) == (status == 405)
    assert answer.json()["error"]["message"]
    assert (answer.json().get("type") == "error") == path.startswith(MESSAGES)


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/m"]
)
async def test_head_is_get_without_its_body(gateway, straight, path):
    """HEAD answers as GET does, without the body."""
    got = await straight(gateway.url, "GET", path)
    async with gateway.dial() as client:
        client.send("HEAD", path)
        head = await client.head()
        client.send("GET", "/health")
        after = await client.answer()

    assert head.status == got.status == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    assert after.json() == {"status": "ok"}


@pytest.fixture
async def open_to_pages(open_gateway, sim):
    """A gateway that one origin's pages may call."""
    http = {"listen": "127.0.0.1:0", "cors_allow_origins": ["https://chat.example"]}
    async with open_gateway(sim, http=http) as opened:
        yield opened


async def test_a_page_of_an_allowed_origin_may_call(open_to_pages, straight):
    """The preflight allows method and headers, and the answer may be read."""
    asked = {"origin": "https://chat.example", "access_control_request_method": "POST"}
    preflight = await straight(
        open_to_pages.url, "OPTIONS", CHAT, **asked, access_control_request_headers="authorization"
    )
    answer = await open_to_pages.post(
        CHAT, _asking("x", stream=True), origin="https://chat.example"
    )

    assert preflight.status == 204
    assert preflight.headers["access-control-allow-headers"] == "authorization"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    for found in (preflight, answer):
        assert found.headers["access-control-allow-origin"] == "https://chat.example"


async def test_a_page_of_another_origin_may_not_call(open_to_pages, straight):
    """Neither preflight nor answer allow an origin that is not listed."""
    asked = {"origin": "https://evil.example", "access_control_request_method": "POST"}
    preflight = await straight(open_to_pages.url, "OPTIONS", CHAT, **asked)
    answer = await open_to_pages.post(CHAT, GOOD, origin="https://evil.example")

    assert preflight.status == 405
    assert "access-control-allow-origin" not in preflight.headers | answer.headers


@pytest.mark.parametrize(
    ("form", "content_type", "status", "field"),
    [
        (b"x", JSON, 415, "content-type"),
        (b"x", "multipart/form-data", 400, "content-type"),
        (b"x", "multipart/form-data; boundary=q", 400, "body"),
        (b"--q\r\n\r\n--q--\r\n", "multipart/form-data; boundary=q", 400, "model"),
        (
            b"--q\r\nContent-Disposition: form-data; name=model\r\n\r\nm",
            "multipart/form-data; boundary=q",
            400,
            "body",
        ),
    ],
    ids=["JSON", "no boundary", "other boundary", "no model", "cut"],
)
async def test_bad_forms_are_refused(gateway, sim, *, form, content_type, status, field):
    """A transcription needs a whole form with a model."""
    answer = await gateway.post("/v1/audio/transcriptions", form, content_type=content_type)

    assert (answer.status, answer.json()["error"]["param"]) == (status, field)
    assert sim.posts == []


@pytest.mark.parametrize(
    "given", ["", "x" * 129, "with space", "é"], ids=["", "long", "space", "é"]
)
async def test_an_unfit_request_id_is_replaced(gateway, given):
    """An id that could not stand in logs and metadata is replaced by one of ours."""
    answer = await gateway.post(CHAT, GOOD, x_request_id=given)

    assert len(answer.headers["x-request-id"]) == 32


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_credential_that_is_no_text_is_refused(gateway, header):
    """A credential that gRPC could not carry is refused over both carriers alike."""
    async with gateway.dial() as client:
        client.send("POST", CHAT, GOOD, **{header: "Bearer \xe9"})
        answer = await client.answer()

    assert answer.status == 400
