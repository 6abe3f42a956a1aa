"""What seldom happens and is still right: old clients, odd names, compression, comments."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from first_core.testing.simulator import (
    CutAfterEvents,
    ErrorStatus,
    Raw,
    Simulator,
    SimulatorSettings,
    StallBeforeHead,
)

CHAT = "/v1/chat/completions"


def asking(*, stream: bool = False, **fields: Any) -> bytes:
    messages = [{"role": "user", "content": "hi"}]
    return json.dumps({"model": "m", "messages": messages, "stream": stream, **fields}).encode()


async def test_a_compressed_body_reaches_the_upstream_plain(gateway, sim):
    """A body in gzip is unpacked: upstreams need not know it."""
    answer = await gateway.post(CHAT, gzip.compress(asking()), content_encoding="gzip")

    assert answer.status == 200
    assert sim.posts[-1][3] == asking()
    assert "content-encoding" not in sim.posts[-1][2]


async def test_a_body_that_unpacks_to_too_much_is_refused(open_gateway, sim):
    """The limit holds for the unpacked body, however small the packed one is."""
    bomb = gzip.compress(b"[" * 50_000_000)
    http = {"listen": "127.0.0.1:0", "max_body_bytes": 100_000}
    async with open_gateway(sim, http=http) as gateway:
        answer = await gateway.post(CHAT, bomb, content_encoding="gzip")

    assert len(bomb) < 100_000
    assert answer.status == 413


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_packed_as_told_is_refused(gateway, sim, encoding):
    """What cannot be unpacked is the client's fault."""
    answer = await gateway.post(CHAT, asking(), content_encoding=encoding)

    assert answer.status == 400
    assert sim.posts == []


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "plain"])
async def test_http_1_0_gets_its_answer_without_chunks(gateway, stream):
    """A client of HTTP/1.0 gets plain bytes, and the end of the connection as their end."""
    body = asking(stream=stream)
    head = f"POST {CHAT} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n"
    async with gateway.dial() as client:
        client.write(head.encode() + body)
        answer = await client.head()
        rest = await client.wait_closed()

    assert answer.status == 200
    assert "transfer-encoding" not in answer.headers
    assert rest.endswith(b"data: [DONE]\n\n" if stream else b"}")


async def test_a_chunked_body_is_taken(gateway, sim):
    """A body may come in chunks, and goes on whole."""
    body = asking()
    async with gateway.dial() as client:
        client.write(
            f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        for byte in body:
            client.write(b"1\r\n" + bytes([byte]) + b"\r\n")
        client.write(b"0\r\n\r\n")
        answer = await client.answer()

    assert answer.status == 200
    assert sim.posts[-1][3] == body


async def test_a_client_that_waits_for_100_is_told_to_go_on(gateway, sim):
    """`Expect: 100-continue` is answered before the body comes."""
    async with gateway.dial() as client:
        client.send("POST", CHAT, expect="100-continue", content_length=str(len(asking())))
        line = await asyncio.wait_for(client._reader.readuntil(b"\r\n\r\n"), 5)
        client.write(asking())
        answer = await client.answer()

    assert line.startswith(b"HTTP/1.1 100 ")
    assert answer.status == 200


async def test_a_connection_lives_on_after_a_stream_that_failed(gateway, sim):
    """An error event ends the answer properly, so the next request can follow."""
    sim.faults.add(CutAfterEvents(count=2))
    async with gateway.dial() as client:
        client.send("POST", CHAT, asking(stream=True))
        failed = await client.answer()
        client.send("POST", CHAT, asking(stream=True))
        good = await client.answer()

    assert b'"error"' in failed.body
    assert good.events[-1] == b"data: [DONE]"


@pytest.fixture
async def talkative(open_gateway, sim):
    """A gateway that writes comments while nothing else comes."""
    http = {"listen": "127.0.0.1:0", "heartbeat_s": 0.05}
    async with open_gateway(sim, http=http) as opened:
        yield opened


async def test_comments_go_before_the_first_event(talkative, sim):
    """A stream that waits begins with comments; the events follow unchanged."""
    gate = asyncio.Event()
    sim.faults.add(StallBeforeHead(gate=gate))
    async with talkative.dial() as client:
        client.send("POST", CHAT, asking(stream=True))
        head = await client.head()
        comment = await client.part()
        gate.set()
        rest = b""
        while part := await client.part():
            rest += part

    assert (head.status, comment[:1]) == (200, b":")
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_an_error_after_a_comment_is_an_event(talkative, sim):
    """Once the status has gone out, an early failure is told in the stream."""
    gate = asyncio.Event()
    sim.faults.add(Raw(script=(gate,)), times=2)  # the second time on a fresh connection
    async with talkative.dial() as client:
        client.send("POST", CHAT, asking(stream=True))
        await client.head()
        await client.part()
        gate.set()
        rest = b""
        while part := await client.part():
            rest += part

    assert b'"error"' in rest
    assert b"[DONE]" not in rest


@pytest.mark.parametrize("name", ["模型/é", "a b/c", "x" * 500, "m?x=1#y", "..", "%2F", 'q"\\'])
async def test_models_may_have_any_name(open_gateway, name):
    """A name with any characters can be listed, asked after, called, and told in a header."""
    async with Simulator(SimulatorSettings(models=(name,))) as sim, open_gateway(sim) as gateway:
        listed = (await gateway.get("/v1/models")).json()["data"]
        answer = await gateway.chat(model=name)
        if name != "..":  # clients take this for the folder above
            found = await gateway.get(f"/v1/models/{quote(name, safe='')}")
            assert found.json()["id"] == name

    assert [model["id"] for model in listed] == [name]
    assert answer.status == 200
    assert answer.headers["x-first-endpoint"].startswith("a/vllm/")


async def test_an_unknown_model_with_any_name_is_404(gateway):
    """No name can make the refusal fail."""
    for name in ("模型", "a\nb", "\x00", "\ud83d", "<script>"):
        answer = await gateway.chat(model=name)

        assert answer.status in {400, 404}, name


async def test_an_event_of_10_mib_passes(gateway, sim):
    """A large event passes over each carrier in one piece."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 10_000_000 + b'"}}]}\n\n'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    sim.faults.add(Raw(script=(head, event, end)))

    answer = await gateway.post(CHAT, asking(stream=True))

    assert answer.body == event + end


async def test_a_transcript_as_text_passes(gateway):
    """A transcription may be asked for as plain text, which is no JSON."""
    fields = {"model": "m", "response_format": "text", "file": "sound"}
    parts = [
        f'--q\r\ncontent-disposition: form-data; name="{name}"; filename="f"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    form = (
        "".join(parts)
        .replace('="model"; filename="f"', '="model"')
        .replace('="response_format"; filename="f"', '="response_format"')
    )

    answer = await gateway.post(
        "/v1/audio/transcriptions",
        f"{form}--q--\r\n".encode(),
        content_type="multipart/form-data; boundary=q",
    )

    assert answer.status == 200
    assert "simulated" in answer.body.decode()
    assert answer.media_type != "application/json"


@pytest.mark.parametrize("length", [8192, 8193, 65_000, 2_000_000])
async def test_refusals_with_large_bodies_keep_their_status(gateway, sim, length):
    """However much an upstream says with its refusal, the status passes over each carrier."""
    body = json.dumps({"error": {"message": "x" * length}}).encode()[:-2] + b"}}"
    sim.faults.add(ErrorStatus(status=422, body=body))

    answer = await gateway.post(CHAT, asking())

    assert answer.status == 422
    assert answer.json()["error"]["message"]
