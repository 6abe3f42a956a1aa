"""Bodies and streamed events are opaque: every byte passes as it came, both ways."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from first_core.testing.simulator import Raw, SplitWrites

REQUEST_ID = {"x_request_id": "same-0123456789"}
MESSAGES = '[{"role":"user","content":"z\\u00e9 漢 \\/ \\ud83d\\ude42"}]'

FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n" + bytes(range(256)) * 40 + b"\r\n--xyz--\r\n"
)  # fmt: skip
FORM_TYPE = {"content_type": "multipart/form-data; boundary=xyz"}

UNKNOWN = '"x-unknown" : {"a":[1.0, 1e400,null,-0],"a":"twice"} , '

BODIES = {
    "v1/chat/completions": f'{{ "model":"m",\n {UNKNOWN}"messages": {MESSAGES} }}',
    "v1/completions": f'{{{UNKNOWN}"prompt":["a","b"],"model":  "m"}}\n',
    "v1/embeddings": f'{{{UNKNOWN}"input":["a","b\\u0301"],"model":"m"}}',
    "v1/responses": f'{{{UNKNOWN}"input":"hello","model":"m"}}',
    "v1/messages": f'{{{UNKNOWN}"max_tokens":20,"messages":{MESSAGES},"model":"m"}}',
    "v1/messages/count_tokens": f'{{{UNKNOWN}"messages":{MESSAGES},"model":"m"}}',
    "v1/rerank": f'{{{UNKNOWN}"query":"q","documents":["a","b"],"model":"m"}}',
    "v1/score": f'{{{UNKNOWN}"text_1":"q","text_2":["a","b"],"model":"m"}}',
    "tokenize": f'{{{UNKNOWN}"prompt":"h\\u00e9llo","model":"m"}}',
    "detokenize": f'{{{UNKNOWN}"tokens":[104,105],"model":"m"}}',
}
STREAMS = {
    "v1/chat/completions": (
        f'{{"stream":true, {UNKNOWN}"stream_options":{{"include_usage":true}},'
        f'"model":"m","n":2,"messages":{MESSAGES}}}'
    ),
    "v1/completions": (
        f'{{"stream":true, {UNKNOWN}"stream_options":{{"include_usage":true}},'
        '"model":"m","prompt":["a","b"]}'
    ),
    "v1/responses": f'{{"stream":true, {UNKNOWN}"input":"hello","model":"m"}}',
    "v1/messages": (
        f'{{"stream":true, {UNKNOWN}"max_tokens":20,"messages":{MESSAGES},"model":"m"}}'
    ),
}
STREAMED_FORM = FORM.replace(
    b"--xyz\r\n",
    b'--xyz\r\nContent-Disposition: form-data; name="stream"\r\n\r\ntrue\r\n--xyz\r\n',
    1,
)


@dataclass(frozen=True)
class Request:
    """One call."""

    path: str
    body: bytes
    headers: dict[str, str]


def requests(bodies: dict[str, str], form: bytes) -> list[Any]:
    """Return one call of each operation."""
    some = [Request(f"/{path}", body.encode(), {}) for path, body in bodies.items()]
    some.append(Request("/v1/audio/transcriptions", form, FORM_TYPE))
    return [pytest.param(request, id=request.path) for request in some]


PLAIN = requests(BODIES, FORM)
STREAMED = requests(STREAMS, STREAMED_FORM)


@pytest.mark.parametrize("backend", ["vllm", "direct"])
@pytest.mark.parametrize("request_", [*PLAIN, *STREAMED])
async def test_bodies_pass_unchanged_both_ways(open_gateway, sim, straight, backend, request_):
    """The upstream gets the client's very body, and the client the upstream's very answer."""
    path, body, headers = request_.path, request_.body, {**request_.headers, **REQUEST_ID}
    if backend == "direct" and not path.startswith("/v1/"):
        pytest.skip("providers have no such path")
    wanted = await straight(sim.url, "POST", path, body, **headers)
    async with open_gateway(sim, backend=backend) as gateway:
        got = await gateway.post(path, body, **headers)

    assert wanted.status == 200
    assert (sim.posts[-1][1], sim.posts[-1][3]) == (path, body)
    assert (got.status, got.timeless) == (wanted.status, wanted.timeless)
    assert got.media_type == wanted.media_type
    assert got.headers["x-request-id"] == REQUEST_ID["x_request_id"]


@pytest.mark.parametrize("request_", STREAMED)
async def test_streams_cut_anywhere_are_the_same(gateway, sim, request_):
    """An answer that comes byte by byte, UTF-8 cut inside characters, arrives as the whole one."""
    headers = {**request_.headers, **REQUEST_ID}
    whole = await gateway.post(request_.path, request_.body, **headers)
    sim.faults.add(SplitWrites())

    cut = await gateway.post(request_.path, request_.body, **headers)

    assert not whole.body.isascii()
    assert cut.timeless == whole.timeless


async def test_a_stream_cut_at_each_offset_is_the_same(gateway, sim):
    """Two writes, cut at each offset of the stream in turn, arrive as the uncut one."""
    body = b'{"model":"m","stream":true,"max_tokens":9,"prompt":"hi"}'
    whole = await gateway.post("/v1/completions", body, **REQUEST_ID)

    for offset in range(1, len(whole.body), 3):
        sim.faults.add(SplitWrites(at=(offset,)))
        cut = await gateway.post("/v1/completions", body, **REQUEST_ID)

        assert cut.timeless == whole.timeless, offset


@pytest.mark.parametrize("stream_options", ["", '"stream_options":{"x":1,"include_usage":false},'])
async def test_only_the_wish_for_usage_is_added(gateway, sim, stream_options):
    """A stream whose client wants no usage asks for it upstream, and nothing else changes."""
    body = f'{{"stream":true, {UNKNOWN}{stream_options}"model":"m","messages":{MESSAGES}}}'

    answer = await gateway.post("/v1/chat/completions", body.encode())

    sent = sim.posts[-1][3].decode()
    added = '"stream_options":{"include_usage":true},'
    kept = '"stream_options":{"x":1,"include_usage":true},'
    wanted = body.replace(stream_options, kept) if stream_options else f"{{{added}{body[1:]}"
    assert sent == wanted
    assert b'"usage":{' not in answer.body
    assert answer.events[-1] == b"data: [DONE]"


async def test_only_the_models_name_is_replaced(open_gateway, sim):
    """A model that the provider calls otherwise is renamed in the body; the rest is the same."""
    provider = {
        "name": "p",
        "base_url": f"{sim.url}/v1",
        "models": [{"name": "alias", "upstream_name": "m"}],
    }
    body = f'{{"model" : "alias", {UNKNOWN}"messages":{MESSAGES},"x":{{"model":"alias"}}}}'
    async with open_gateway(direct={"providers": [provider]}) as gateway:
        answer = await gateway.post("/v1/chat/completions", body.encode())

    assert answer.status == 200
    assert sim.posts[-1][3].decode() == body.replace('"alias"', '"m"', 1)


async def test_unknown_fields_and_events_reach_the_client(gateway, sim):
    """What no one has heard of, in events and between them, passes on as it came."""
    stream = (
        b": hello\r\n\r\n"
        b'event: x\nid: 7\ndata: {"choices":[{"index":0,"delta":{"content":"a"},"z":[1]}]}\n\n'
        b'data: {"unheard":"of"}\n\n'
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    sim.faults.add(Raw(script=(head, stream)))

    answer = await gateway.chat(stream=True)

    assert answer.body == stream


async def test_large_bodies_pass(gateway, sim):
    """Large bodies pass over each carrier, both ways."""
    text = "x" * (6 * 1024 * 1024)
    answer_body = json.dumps({"choices": [], "text": text}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer_body)}"
    )
    sim.faults.add(Raw(script=(f"{head}\r\n\r\n".encode(), answer_body)))

    answer = await gateway.chat(text)

    assert answer.body == answer_body
    assert text.encode() in sim.posts[-1][3]
