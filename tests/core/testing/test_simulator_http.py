"""The simulator's HTTP on raw sockets, under both event loops."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import uvloop

from first_core.testing.simulator import Simulator, SimulatorSettings

SETTINGS = SimulatorSettings(natural_token_count=12)


def post(path: str, body: Any, *headers: str) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + data


def chat(text: str = "hi", *headers: str, **fields: Any) -> bytes:
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return post("/v1/chat/completions", body, *headers)


async def exchange(sim: Simulator, *parts: bytes) -> bytes:
    """Send the parts and read until the server closes."""
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def plain_bodies(answer: bytes) -> list[Any]:
    """Return the JSON bodies of answers that follow each other."""
    bodies = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.startswith(b"content-length")
        )
        bodies.append(json.loads(rest[:length]))
        answer = rest[length:]
    return bodies


def dechunked(body: bytes) -> bytes:
    """Return the data of a chunked body that is complete."""
    data = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if length == 0:
            assert body == b"\r\n"
            return data
        data += body[:length]
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]


def texts(answer: bytes) -> list[str]:
    return [body["choices"][0]["message"]["content"] for body in plain_bodies(answer)]


async def test_connection_stays_open_for_the_next_request() -> None:
    """Two requests on one connection get two answers."""
    async with Simulator(SETTINGS) as sim:
        answer = await exchange(sim, chat("a"), chat("b", "connection: close"))

    assert len(set(texts(answer))) == 2


async def test_pipelined_requests_are_answered_in_order() -> None:
    """Requests sent at once are answered one after the other, streams among them."""
    names = [f"m{number}" for number in range(40)]
    async with Simulator(SimulatorSettings(models=(*names, "s"), token_interval_s=1e-4)) as sim:
        sent = b"".join(chat("x", model=name) for name in names)
        last = chat("x", "connection: close", model="s", stream=True, max_tokens=3)
        answer = await exchange(sim, sent + last)
    plain, _, stream = answer.rpartition(b"HTTP/1.1 200 OK")

    assert [body["model"] for body in plain_bodies(plain)] == names
    assert dechunked(stream.partition(b"\r\n\r\n")[2]).endswith(b"data: [DONE]\n\n")


async def test_pipeline_of_instant_calls_does_not_grow_the_stack() -> None:
    """As many pipelined calls as are allowed, each answered at once."""
    async with Simulator(SETTINGS) as sim:
        answer = await exchange(sim, chat() * 100 + chat("x", "connection: close"))

    assert len(plain_bodies(answer)) == 101


async def test_request_may_come_byte_by_byte() -> None:
    """Where a request is cut on the wire changes nothing."""
    async with Simulator(SETTINGS) as sim:
        request = chat("é漢🙂", "connection: close")
        whole = await exchange(sim, request)
        pieces = [request[place : place + 1] for place in range(len(request))]
        cut = await exchange(sim, *pieces)

    assert texts(cut) == texts(whole)


async def test_request_body_may_be_chunked() -> None:
    """A chunked request body is put together, and kept as one."""
    body = b'{"messages":[{"role":"user","content":"hi"}]}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
    chunks = b"%x\r\n%b\r\n3;x=y\r\n%b\r\n0\r\n\r\n" % (len(body) - 3, body[:-3], body[-3:])
    async with Simulator(SETTINGS) as sim:
        answer = await exchange(sim, head + b"transfer-encoding: chunked\r\n\r\n" + chunks)

        assert sim.received[0][3] == body
    assert len(texts(answer)) == 1


async def test_client_that_expects_100_is_told_to_go_on() -> None:
    """The interim answer comes before the body is sent."""
    request = chat("hi", "expect: 100-continue", "connection: close")
    head, _, body = request.partition(b"\r\n\r\n")
    async with Simulator(SETTINGS) as sim:
        reader, writer = await asyncio.open_connection(sim.host, sim.port)
        writer.write(head + b"\r\n\r\n")
        interim = await reader.readuntil(b"\r\n\r\n")
        writer.write(body)
        answer = await reader.read()
        writer.close()

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert len(texts(answer)) == 1


async def test_http_1_0_client_gets_a_stream_without_chunks() -> None:
    """The end of the connection is the end of the stream."""
    request = chat(stream=True).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with Simulator(SETTINGS) as sim:
        head, _, body = (await exchange(sim, request)).partition(b"\r\n\r\n")

    assert b"transfer-encoding" not in head
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_bytes_that_are_no_http_get_400() -> None:
    """The connection is closed after a plain 400."""
    async with Simulator(SETTINGS) as sim:
        answer = await exchange(sim, b"\x16\x03\x01 hello\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    ("request_line", "expected"),
    [
        (b"GET /nowhere", b'404 Not Found|{"detail":"Not Found"}'),
        (b"GET /v1/chat/completions", b'405 Method Not Allowed|{"detail":"Method Not Allowed"}'),
    ],
)
async def test_wrong_routes_are_refused_as_by_vllm(request_line: bytes, expected: bytes) -> None:
    """Unknown path: 404; known path, other method: 405; both with `detail`."""
    async with Simulator(SETTINGS) as sim:
        answer = await exchange(sim, request_line + b" HTTP/1.1\r\nconnection: close\r\n\r\n")
    status, _, body = expected.partition(b"|")

    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.endswith(body)


@pytest.mark.parametrize(
    ("path", "credential", "status"),
    [
        ("/v1/models", "", b"401"),
        ("/v1/models", "Bearer wrong", b"401"),
        ("/v1/models", "Bearer secret", b"200"),
        ("/health", "", b"200"),
    ],
)
async def test_api_key_guards_the_paths_under_v1(path: str, credential: str, status: bytes) -> None:
    """As with `vllm serve --api-key`; all other paths stay open."""
    lines = [f"GET {path} HTTP/1.1", f"authorization: {credential}", "connection: close"]
    async with Simulator(SimulatorSettings(api_key="secret")) as sim:
        answer = await exchange(sim, ("\r\n".join(lines) + "\r\n\r\n").encode())

    assert answer.split(b" ")[1] == status
    assert (b'{"error":"Unauthorized"}' in answer) == (status == b"401")


def test_settings_hide_the_api_key() -> None:
    """A credential does not show in `repr`."""
    assert "secret" not in repr(SimulatorSettings(api_key="secret"))


async def test_received_keeps_the_request_as_it_came() -> None:
    """Method, target with query, headers in lower case, raw body."""
    request = post("/v1/embeddings?x=1", {"input": "é"}, "X-Thing: Yes", "connection: close")
    async with Simulator(SETTINGS) as sim:
        await exchange(sim, request)
        method, target, headers, body = sim.received[0]

    assert (method, target, headers["x-thing"]) == ("POST", "/v1/embeddings?x=1", "Yes")
    assert body == request.partition(b"\r\n\r\n")[2]


async def test_stream_waits_for_a_slow_reader() -> None:
    """A client that does not read does not make the server keep a whole long stream."""
    async with Simulator(SimulatorSettings(max_model_len=200_000)) as sim:
        reader, writer = await asyncio.open_connection(sim.host, sim.port, limit=1024)
        fields = {"stream": True, "ignore_eos": True, "max_tokens": 50_000}
        writer.write(chat("hi", "connection: close", **fields))
        await sim.wait_running(1)
        answer = await reader.read()
        writer.close()

    assert answer.count(b'"delta":{"content"') == 50_000


def test_server_runs_on_uvloop() -> None:
    """Streams, cuts and aborts behave the same on uvloop."""

    async def main() -> bytes:
        async with Simulator(SETTINGS) as sim:
            answer = await exchange(sim, chat("a"), chat("b", "connection: close", stream=True))
            await sim.pause_listening()
            await sim.resume_listening()
            reader, writer = await asyncio.open_connection(sim.host, sim.port)
            writer.write(chat(stream=True))
            await reader.readuntil(b"data: ")
            writer.close()
            return answer

    answer = uvloop.run(main())

    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
