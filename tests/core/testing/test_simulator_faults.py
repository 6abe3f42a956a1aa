"""Each fault does on the socket what its name says, and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from first_core.testing.simulator import (
    BrokenEvent,
    CutAfterBytes,
    CutAfterEvents,
    CutInsideCharacter,
    DoneWithoutFinish,
    ErrorInside,
    ErrorStatus,
    Fault,
    Garbage,
    LengthMismatch,
    NoDone,
    Raw,
    Refuse,
    Simulator,
    SimulatorSettings,
    Slow,
    SplitWrites,
    StallAfterEvents,
    StallAfterHead,
    StallBeforeHead,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
LAST_CHUNK = b"0\r\n\r\n"


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(SimulatorSettings(natural_token_count=20)) as simulator:
        yield simulator


@pytest.fixture
async def session(sim: Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(sim.url) as client:
        yield client


def request(path: str = CHAT, **fields: Any) -> bytes:
    sent = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100, **fields}
    data = json.dumps(sent).encode()
    head = f"POST {path} HTTP/1.1\r\nx-request-id: 1\r\nconnection: close\r\n"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


async def raw(sim: Simulator, sent: bytes) -> tuple[bytes, bytes]:
    """Return head and body of an answer, read until the connection is closed."""
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(sent)
    try:
        answer = await reader.read()
    finally:
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def events_of(body: bytes) -> list[bytes]:
    """Return the events of a chunked body, complete or not."""
    data = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        data += body[:length]
        body = body[length + 2 :]
    return [event for event in data.split(b"\n\n") if event]


async def stream(sim: Simulator, fault: Fault, path: str = CHAT) -> bytes:
    sim.faults.add(fault)
    _, body = await raw(sim, request(path, stream=True))
    return body


async def plain(sim: Simulator, fault: Fault) -> tuple[bytes, bytes]:
    sim.faults.add(fault)
    return await raw(sim, request())


async def healthy(sim: Simulator, **fields: Any) -> bytes:
    _, body = await raw(sim, request(**fields))
    return body


async def test_fault_acts_as_often_as_asked(sim, session) -> None:
    """`times=2`: two calls fail, the third does not."""
    sim.faults.add(ErrorStatus(status=500), times=2)
    statuses = []
    for _ in range(3):
        async with session.post(CHAT, data=request().partition(b"\r\n\r\n")[2]) as answer:
            statuses.append(answer.status)

    assert statuses == [500, 500, 200]


async def test_fault_without_times_acts_until_cleared(sim) -> None:
    """`times=None`: always."""
    sim.faults.add(Garbage(kind="html"), times=None)
    for _ in range(3):
        head, _ = await raw(sim, request())
        assert b"text/html" in head
    sim.faults.clear()
    head, _ = await raw(sim, request())

    assert b"text/html" not in head


async def test_fault_with_a_path_leaves_other_paths_alone(sim, session) -> None:
    """A fault for `/health` acts there and nowhere else, also on GET."""
    sim.faults.add(ErrorStatus(status=503, body=b""), path="/health")
    await healthy(sim)
    async with session.get("/health") as answer:
        assert answer.status == 503


async def test_fault_without_a_path_leaves_probes_alone(sim, session) -> None:
    """A probe does not use up a fault that is meant for a call."""
    sim.faults.add(ErrorStatus(status=500))
    for path in ("/health", "/v1/models", "/metrics"):
        async with session.get(path) as answer:
            assert answer.status == 200

    assert len(sim.faults) == 1


def test_fault_count_below_one_is_refused() -> None:
    """`times=0` is a mistake and told as one."""
    with pytest.raises(ValueError, match="times must be 1 or more"):
        Simulator().faults.add(Refuse(), times=0)


async def test_refuse_resets_a_new_connection(sim) -> None:
    """The client sees a reset and no byte."""
    with pytest.raises(ConnectionResetError):
        await plain(sim, Refuse())
    assert sim.received_count == 0


async def test_refuse_may_close_in_good_order(sim) -> None:
    """Without `reset` the client sees the end of the connection."""
    head, body = await plain(sim, Refuse(reset=False))

    assert (head, body) == (b"", b"")


async def test_refuse_behind_a_fault_for_a_path_acts_at_accept(sim) -> None:
    """A fault that waits for another path does not hold it up."""
    sim.faults.add(ErrorStatus(status=503), path="/health")
    with pytest.raises(ConnectionResetError):
        await plain(sim, Refuse())


async def test_refuse_resets_an_open_connection_at_its_next_request(sim, session) -> None:
    """A pooled connection is not safe from it either."""
    async with session.get("/health") as answer:
        assert answer.status == 200
    sim.faults.add(Refuse())
    with pytest.raises(aiohttp.ClientConnectionError):
        await session.post(CHAT, json={})


@pytest.mark.parametrize("streamed", [False, True])
async def test_stall_before_head_waits_for_its_gate(sim, streamed) -> None:
    """Not a byte comes before the gate opens, then the whole answer."""
    gate = asyncio.Event()
    sim.faults.add(StallBeforeHead(gate=gate))
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(request(stream=streamed))
    await sim.wait_running(1)
    first = asyncio.ensure_future(reader.read(1))
    done, _ = await asyncio.wait([first], timeout=0)
    gate.set()
    answer = await first + await reader.read()
    writer.close()

    assert not done
    assert b'"finish_reason":"stop"' in answer


@pytest.mark.parametrize("streamed", [False, True])
async def test_stall_after_head_sends_the_head_first(sim, streamed) -> None:
    """The head is there, the body follows when the gate opens."""
    gate = asyncio.Event()
    sim.faults.add(StallAfterHead(gate=gate))
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(request(stream=streamed))
    head = await reader.readuntil(b"\r\n\r\n")
    gate.set()
    body = await reader.read()
    writer.close()

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b'"finish_reason":"stop"' in body


async def test_stall_after_events_sends_that_many_first(sim) -> None:
    """Two events come, the others when the gate opens."""
    gate = asyncio.Event()
    sim.faults.add(StallAfterEvents(count=2, gate=gate))
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(request(stream=True))
    before = [await reader.readuntil(b"\n\n") for _ in range(2)]
    buffered = bytes(reader._buffer)
    gate.set()
    after = await reader.read()
    writer.close()

    assert b'"role"' in before[0]
    assert buffered in {b"", b"\r\n"}
    assert after.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_error_status_has_body_and_headers(sim) -> None:
    """What is set goes out."""
    headers = {"retry-after": "7"}
    head, body = await plain(sim, ErrorStatus(status=429, body=b"{}", headers=headers))

    assert head.startswith(b"HTTP/1.1 429 Too Many Requests")
    assert b"retry-after: 7" in head
    assert body == b"{}"


@pytest.mark.parametrize("status", [400, 500, 503, 529])
async def test_error_status_has_the_shape_of_vllm_by_itself(sim, status) -> None:
    """Without a body: an error object whose code is the status."""
    head, body = await plain(sim, ErrorStatus(status=status))

    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == status


async def test_error_inside_a_plain_answer_has_status_200(sim) -> None:
    """The status lies, the body tells."""
    head, body = await plain(sim, ErrorInside(message="engine died"))

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)["error"]["message"] == "engine died"


async def test_error_inside_a_stream_is_its_first_event(sim) -> None:
    """One error event, then the end mark."""
    first, second = events_of(await stream(sim, ErrorInside()))

    assert json.loads(first.removeprefix(b"data: "))["error"]["code"] == 500
    assert second == b"data: [DONE]"


async def test_error_inside_a_stream_may_come_later(sim) -> None:
    """After some good events."""
    events = events_of(await stream(sim, ErrorInside(after_events=3)))

    assert [b'"error"' in event for event in events] == [False, False, False, True, False]


async def test_error_inside_an_anthropic_stream_has_its_shape(sim) -> None:
    """An event of type `error`, and no `[DONE]`."""
    (event,) = events_of(await stream(sim, ErrorInside(), MESSAGES))

    assert event.startswith(b'event: error\ndata: {"error":{')


async def test_garbage_may_be_no_http(sim) -> None:
    """The first bytes are no status line."""
    head, _ = await plain(sim, Garbage(kind="not_http"))

    assert not head.startswith(b"HTTP/")


async def test_garbage_may_be_broken_json(sim) -> None:
    """A good head, and a body that ends too soon although it is complete."""
    head, body = await plain(sim, Garbage(kind="invalid_json"))

    assert b"content-length: %d" % len(body) in head
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(body)


async def test_broken_event_stands_amid_a_good_stream(sim) -> None:
    """One event more than without it, and the others are untouched."""
    good = events_of(await healthy(sim, stream=True))
    bad = events_of(await stream(sim, BrokenEvent(after=2)))
    broken = bad.pop(2)

    assert len(bad) == len(good)
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(broken.removeprefix(b"data: "))


@pytest.mark.parametrize("count", [0, 1, 100, 300])
async def test_cut_after_bytes_closes_there(sim, count) -> None:
    """The body has exactly so many bytes and lacks its end."""
    head, body = await plain(sim, CutAfterBytes(count=count))
    streamed = await stream(sim, CutAfterBytes(count=count))

    assert len(body) == count
    assert b"content-length: %d\r\n" % count not in head
    assert sum(len(event) for event in streamed.split(b"\r\n")[1::2]) == count
    assert not streamed.endswith(LAST_CHUNK)


async def test_cut_after_bytes_may_look_like_an_end(sim) -> None:
    """`clean`: HTTP says that all is there."""
    head, body = await plain(sim, CutAfterBytes(count=50, clean=True))
    streamed = await stream(sim, CutAfterBytes(count=50, clean=True))

    assert b"content-length: 50\r\n" in head
    assert len(body) == 50
    assert streamed.endswith(LAST_CHUNK)


@pytest.mark.parametrize("count", [0, 1, 5])
async def test_cut_after_events_closes_there(sim, count) -> None:
    """So many events, and no last chunk."""
    body = await stream(sim, CutAfterEvents(count=count))

    assert len(events_of(body)) == count
    assert not body.endswith(LAST_CHUNK)


async def test_cut_after_events_may_look_like_an_end(sim) -> None:
    """`clean`: the last chunk is there, the finish reason is not."""
    body = await stream(sim, CutAfterEvents(count=5, clean=True))

    assert body.endswith(LAST_CHUNK)
    assert b'"finish_reason":"' not in body


async def test_cut_after_events_may_reset(sim) -> None:
    """`reset`: the client gets a TCP reset."""
    with pytest.raises(ConnectionResetError):
        await stream(sim, CutAfterEvents(count=5, reset=True))


async def test_cut_is_no_abort(sim) -> None:
    """The server left, not the client; its slot is free again."""
    await stream(sim, CutAfterEvents(count=5))

    assert (sim.abort_count, sim.running_count) == (0, 0)


@pytest.mark.parametrize("clean", [False, True])
async def test_cut_inside_a_character_leaves_half_of_it(sim, clean) -> None:
    """The bytes that came are no UTF-8."""
    _, body = await plain(sim, CutInsideCharacter(clean=clean))
    streamed = await stream(sim, CutInsideCharacter(clean=clean))

    for data in (body, streamed.removesuffix(LAST_CHUNK).rstrip(b"\r\n")):
        with pytest.raises(UnicodeDecodeError, match="unexpected end"):
            data.decode()


async def test_no_done_leaves_a_complete_stream(sim) -> None:
    """Only the end mark is missing."""
    good = events_of(await healthy(sim, stream=True))
    bad = events_of(await stream(sim, NoDone()))

    assert len(bad) == len(good) - 1
    assert b'"finish_reason":"stop"' in bad[-1]


async def test_done_without_finish_lacks_the_reason(sim) -> None:
    """The end mark proves nothing."""
    events = events_of(await stream(sim, DoneWithoutFinish()))

    assert events[-1] == b"data: [DONE]"
    assert all(b'"finish_reason":null' in event for event in events[:-1])


async def test_done_without_finish_works_for_anthropic(sim) -> None:
    """There the reason stands in `message_delta`."""
    events = events_of(await stream(sim, DoneWithoutFinish(), MESSAGES))

    assert events[-1].startswith(b"event: message_stop")
    assert not any(event.startswith(b"event: message_delta") for event in events)


@pytest.mark.parametrize("by", [10, -10])
async def test_length_mismatch_announces_another_length(sim, by) -> None:
    """The announced length is off by so many bytes."""
    head, body = await plain(sim, LengthMismatch(by=by))

    assert b"content-length: %d" % (len(body) + by) in head


async def test_length_mismatch_breaks_the_last_chunk(sim, session) -> None:
    """A stream ends amid a chunk."""
    sim.faults.add(LengthMismatch())
    data = request(stream=True).partition(b"\r\n\r\n")[2]
    async with session.post(CHAT, data=data) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


async def test_slow_sends_everything(sim) -> None:
    """Byte by byte, and none is lost."""
    head, body = await plain(sim, Slow(interval_s=0, size=7))
    expected = json.loads(await healthy(sim))

    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)["choices"] == expected["choices"]


@pytest.mark.parametrize("at", [None, (1, 300, 301, 600)])
async def test_split_writes_cut_the_body_and_nothing_else(sim, session, at) -> None:
    """The pieces are chunks of their own, cut where asked, and joined they are the stream."""
    data = request(stream=True, max_tokens=5).partition(b"\r\n\r\n")[2]
    headers = {"x-request-id": "1"}
    async with session.post(CHAT, data=data, headers=headers) as answer:
        whole = await answer.read()
    sim.faults.add(SplitWrites(at=at))
    pieces = []
    async with session.post(CHAT, data=data, headers=headers) as answer:
        async for piece, _ in answer.content.iter_chunks():
            pieces.append(piece)
    ends = {len(b"".join(pieces[: place + 1])) for place in range(len(pieces))}

    assert strip_created(b"".join(pieces)) == strip_created(whole)
    assert set(at or range(1, len(whole))) <= ends


def strip_created(data: bytes) -> list[bytes]:
    return [part.partition(b",")[2] for part in data.split(b'"created":')]


async def test_split_writes_keep_plain_answers_whole(sim) -> None:
    """A plain body arrives complete."""
    _, body = await plain(sim, SplitWrites())

    assert json.loads(body)["object"] == "chat.completion"


async def test_raw_sends_what_it_is_told(sim) -> None:
    """Bytes as they are, held at each gate."""
    gate = asyncio.Event()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"
    sim.faults.add(Raw(script=(answer, gate, b"ok")))
    reader, writer = await asyncio.open_connection(sim.host, sim.port)
    writer.write(request())
    head = await reader.readuntil(b"\r\n\r\n")
    gate.set()
    rest = await reader.read()
    writer.close()

    assert (head, rest) == (answer, b"ok")


async def test_raw_may_keep_the_connection(sim, session) -> None:
    """`end="keep"`: the next request on it is served."""
    answer = b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n"
    sim.faults.add(Raw(script=(answer,), end="keep"))
    async with session.post(CHAT, json={}) as response:
        assert response.status == 201
    async with session.get("/health") as response:
        assert response.status == 200

    assert sim.connection_count == 1


@pytest.mark.parametrize("path", ["/v1/responses", MESSAGES, "/v1/completions"])
async def test_cut_works_on_every_stream(sim, path) -> None:
    """A fault knows nothing of the route."""
    sim.faults.add(CutAfterEvents(count=3))
    _, body = await raw(sim, request(path, stream=True, prompt="x", input="x"))

    assert len(events_of(body)) == 3


async def test_random_faults_come_in_their_ratio() -> None:
    """A fixed share of calls fails, the same ones in each run."""
    settings = SimulatorSettings(fault_ratio=0.3, random_faults=(ErrorStatus(status=503),))

    async def run() -> list[int]:
        async with Simulator(settings) as sim, aiohttp.ClientSession(sim.url) as session:
            statuses = []
            for _ in range(60):
                async with session.post(CHAT, data=request().partition(b"\r\n\r\n")[2]) as answer:
                    statuses.append(answer.status)
            return statuses

    statuses = await run()

    assert 9 <= statuses.count(503) <= 27
    assert await run() == statuses


async def test_faults_can_be_armed_over_http(sim, session) -> None:
    """The demo arms by name, looks, and clears."""
    fault = {"fault": "error_status", "status": 418, "headers": {"a": "b"}, "times": 2}
    async with session.post("/sim/faults", json=fault) as answer:
        assert (await answer.json())["faults"][0]["times"] == 2
    async with session.post(CHAT, json={}) as answer:
        assert (answer.status, answer.headers["a"]) == (418, "b")
    async with session.delete("/sim/faults") as answer:
        assert (await answer.json()) == {"faults": []}


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "refuse"},
        {"fault": "stall_before_head"},
        {"fault": "stall_after_head"},
        {"fault": "stall_after_events", "count": 1},
        {"fault": "error_status", "status": 500, "body": "text"},
        {"fault": "error_inside", "after_events": 2},
        {"fault": "garbage", "kind": "html"},
        {"fault": "broken_event", "after": 2, "event": "data: x"},
        {"fault": "cut_after_bytes", "count": 3, "clean": True},
        {"fault": "cut_after_events", "count": 3, "reset": True},
        {"fault": "cut_inside_character"},
        {"fault": "no_done", "times": None},
        {"fault": "done_without_finish", "path": CHAT},
        {"fault": "length_mismatch", "by": -3},
        {"fault": "slow", "interval_s": 0.5},
        {"fault": "split_writes", "at": [1, 2]},
    ],
    ids=lambda fault: fault["fault"],
)
async def test_fault_of_each_name_can_be_armed_over_http(sim, session, fault) -> None:
    """Every fault but the raw script has a name."""
    async with session.post("/sim/faults", json=fault) as answer:
        assert answer.status == 200, await answer.text()

    assert len(sim.faults) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"fault": "no_such"}',
        b'{"fault": "slow", "unheard": 1}',
        b'{"fault": "cut_after_events"}',
        b'{"fault": "cut_after_events", "count": "x"}',
        b'{"fault": "no_done", "times": 0}',
        b'{"fault": "no_done", "path": 3}',
    ],
)
async def test_faults_that_make_no_sense_are_refused(session, body) -> None:
    """400, and nothing is armed."""
    async with session.post("/sim/faults", data=body) as answer:
        assert answer.status == 400
