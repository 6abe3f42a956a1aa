"""A peer that breaks the rules ends its call or its link, with a reason, and harms nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc import aio
from link_peers import EVENT, call, call_frame, frame, hello, raw_dial, stream, stub_on

from first_core.link.frames import (
    CALL,
    CANCEL,
    CREDIT,
    END,
    GOAWAY,
    HELLO,
    MESSAGE,
    PART,
    PART_BYTES,
)

PART_OF = b"x" * PART_BYTES
PAIR = {"key": "k", "value": b"v"}


def bad_hello(**fields: int) -> Any:
    says = hello()
    for name, value in fields.items():
        setattr(says.hello, name, value)
    return says


BROKEN_LINKS = {
    "no hello": ([frame(GOAWAY)], "the first frame is no hello"),
    "call before hello": ([call_frame(1)], "the first frame is no hello"),
    "empty hello": ([frame(HELLO)], "link version 0.0 is not spoken here"),
    "two hellos": ([hello(), hello()], "a second hello"),
    "no message fits": ([bad_hello(max_message_bytes=0)], "a limit out of range"),
    "no credit": ([bad_hello(initial_credit_bytes=-5)], "a limit out of range"),
    "negative calls": ([bad_hello(max_call_count=-1)], "a limit out of range"),
    "even id": ([hello(), call_frame(2)], "call id 2 is not a new one"),
    "id 0": ([hello(), call_frame(0)], "call id 0 is not a new one"),
    "negative id": ([hello(), call_frame(-1)], "call id -1 is not a new one"),
    "same id": ([hello(), call_frame(5, "hang"), call_frame(5)], "call id 5 is not a new one"),
    "lower id": ([hello(), call_frame(5), call_frame(3)], "call id 3 is not a new one"),
    "message of nothing": ([hello(), frame(MESSAGE, 2)], "call id 2 was never used"),
    "end of nothing": ([hello(), frame(END, 4)], "call id 4 was never used"),
    "end of its own call": ([hello(), call_frame(1), frame(END, 1)], "call id 1 was never used"),
    "cancel of nothing": ([hello(), frame(CANCEL, 7)], "call id 7 was never used"),
    "credit for nothing": ([hello(), frame(CREDIT, 7, credit_bytes=1)], "call id 7 was never used"),
    "no credit in credit": ([hello(), call_frame(1, "hang"), frame(CREDIT, 1)], "a credit of 0"),
    "negative credit": (
        [hello(), call_frame(1, "hang"), frame(CREDIT, 1, credit_bytes=-1)],
        "a credit of -1 bytes",
    ),
    "part of nothing": ([hello(), frame(PART, 7)], "call id 7 was never used"),
    "small part": ([hello(), call_frame(1, message=b"x", more=True)], "a part of 1 bytes"),
    "empty part": (
        [hello(), call_frame(1, message=PART_OF, more=True), frame(PART, 1, more=True)],
        "a part of 0 bytes",
    ),
    "part of a new call": (
        [hello(), call_frame(1, message=PART_OF, more=True), call_frame(1)],
        "call id 1 is not a new one",
    ),
    "endless credit": (
        [hello(), call_frame(1, "hang"), frame(CREDIT, 1, credit_bytes=2**62)],
        "a credit of",
    ),
}


@pytest.mark.parametrize("name", BROKEN_LINKS)
async def test_broken_rule_ends_the_link(pair: Any, name: str) -> None:
    """The peer is told which rule it broke; other links go on."""
    frames, text = BROKEN_LINKS[name]
    async with raw_dial(pair.target) as (peer, rpc):
        await peer.send(*frames)
        await peer.drain()
        code, details = await rpc.code(), await rpc.details()
    answer = await pair.stubs["out"].Call(call("", b"x"))

    assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION}
    assert text in details
    assert answer.body == b"x"


async def test_broken_rule_stops_the_calls_of_that_link(pair: Any) -> None:
    """What the peer had running is cancelled."""
    servicer = pair.servicers["out"]
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello(), call_frame(1, "hang"))
        await servicer.begun.wait()
        await peer.send(frame(CANCEL, 99))
        await servicer.stopped.wait()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"GET / HTTP/1.1\r\n", b"\x0a\x05ab"])
async def test_garbage_ends_the_link(pair: Any, garbage: bytes) -> None:
    """Bytes that are no frames end the link; others go on."""
    async with aio.insecure_channel(pair.target) as connection:
        rpc = connection.stream_stream("/first.link.v1.LinkService/Connect")()
        await rpc.write(hello_batch())
        await rpc.write(garbage)
        with pytest.raises(aio.AioRpcError) as caught:
            while await rpc.read() is not aio.EOF:
                pass
    answer = await pair.stubs["out"].Call(call("", b"x"))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the peer sent something else than frames"
    assert answer.body == b"x"


def hello_batch() -> bytes:
    says = hello().SerializeToString()
    return b"\x0a" + bytes([len(says)]) + says


async def test_late_frames_are_passed_over(pair: Any) -> None:
    """Frames that crossed the end of their call mean nothing."""
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello(), call_frame(1))
        await peer.frame(END)
        await peer.send(frame(CANCEL, 1), frame(CREDIT, 1, credit_bytes=5), call_frame(3))
        end = await peer.frame(END)

    assert (end.call_id, end.code) == (3, 0)


async def test_calls_cancelled_at_once_leave_nothing(pair: Any) -> None:
    """Calls that come together with their cancel are forgotten."""
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello())
        ids = range(1, 200, 2)
        await peer.send(*[f for i in ids for f in (call_frame(i, "hang"), frame(CANCEL, i))])
        await peer.send(call_frame(201))
        await peer.frame(END)
        link = next(found for found in pair.links.links if found is not pair.ends["back"])

        assert link.statistics().served_call_count == 0
        assert not link.running


REFUSED_CALLS = {
    "illegal key": ({"metadata": [{"key": "K", "value": b"v"}]}, "INVALID_ARGUMENT"),
    "no key": ({"metadata": [{"key": "", "value": b"v"}]}, "INVALID_ARGUMENT"),
    "illegal value": ({"metadata": [{"key": "k", "value": b"\x00"}]}, "INVALID_ARGUMENT"),
    "bytes in text": ({"metadata": [{"key": "k", "value": b"\xff"}]}, "INVALID_ARGUMENT"),
    "much metadata": ({"metadata": [PAIR] * 40_000}, "RESOURCE_EXHAUSTED"),
    "no method": ({"method": ""}, "UNIMPLEMENTED"),
    "odd method": ({"method": "/x\x00/\n"}, "UNIMPLEMENTED"),
    "garbage message": ({"message": b"\xff\xff"}, "INTERNAL"),
    "time that is over": ({"timeout": {"seconds": -5}, "message": b""}, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("name", REFUSED_CALLS)
async def test_hostile_call_ends_alone(pair: Any, clock: Any, name: str) -> None:
    """A call that cannot be served ends with its status; the next one on the link is answered."""
    fields, code = REFUSED_CALLS[name]
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello(), call_frame(1, **fields))
        if code == "DEADLINE_EXCEEDED":
            await pair.servicers["out"].begun.wait()
            clock.advance(0)
        end = await peer.frame(END)
        await peer.send(call_frame(3))
        after = await peer.frame(END)

    assert grpc.StatusCode[code].value[0] == end.code or code == "DEADLINE_EXCEEDED"
    assert (after.call_id, after.code) == (3, 0)


async def test_calls_beyond_the_limit_are_refused_unstarted(open_pair: Any) -> None:
    """A peer that makes more calls than allowed has the surplus refused, and no more."""
    async with open_pair(max_call_count=2) as pair, raw_dial(pair.target) as (peer, _):
        await peer.send(hello(), *[call_frame(i, "held") for i in (1, 3, 5)])
        refused = await peer.frame(END)
        pair.servicers["out"].release.set()
        ended = {(await peer.frame(END)).call_id for _ in range(2)}

    assert refused.call_id == 5
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert refused.not_started
    assert ended == {1, 3}


async def test_message_beyond_the_limit_is_refused(open_pair: Any) -> None:
    """A request larger than the hello allows is refused, unstarted."""
    async with open_pair(max_message_bytes=100) as pair, raw_dial(pair.target) as (peer, _):
        await peer.send(hello(), call_frame(1, message=b"x" * 101))
        end = await peer.frame(END)

    assert end.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_parts_beyond_the_limit_are_refused(open_pair: Any) -> None:
    """A request in parts is refused as soon as it is too large; what follows is passed over."""
    async with (
        open_pair(max_message_bytes=100_000) as pair,
        raw_dial(pair.target) as (peer, _),
    ):
        part = frame(PART, 1, message=PART_OF, more=True)
        await peer.send(hello(), call_frame(1, message=PART_OF, more=True), part, part, part)
        refused = await peer.frame(END)
        await peer.send(frame(PART, 1, message=b""), call_frame(3))
        after = await peer.frame(END)

    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert refused.not_started
    assert (after.call_id, after.code) == (3, 0)


async def test_calls_in_parts_count_as_in_flight(open_pair: Any) -> None:
    """Requests that are begun and never completed take the room of calls."""
    async with open_pair(max_call_count=2) as pair, raw_dial(pair.target) as (peer, _):
        begun = [call_frame(i, message=PART_OF, more=True) for i in (1, 3, 5)]
        await peer.send(hello(), *begun)
        refused = await peer.frame(END)
        await peer.send(frame(CANCEL, 1), call_frame(7))
        after = await peer.frame(END)

    assert (refused.call_id, refused.not_started) == (5, True)
    assert (after.call_id, after.code) == (7, 0)


async def test_peer_that_does_not_read_is_given_up(open_pair: Any, clock: Any) -> None:
    """A peer that asks and asks and never reads cannot fill the memory."""
    async with (
        open_pair(max_unsent_bytes=6400, max_call_count=10) as pair,
        raw_dial(pair.target) as (peer, _),
    ):
        await peer.send(hello())
        link = None
        while link is None:
            await asyncio.sleep(0)
            link = next(
                (found for found in pair.links.links if found is not pair.ends["back"]), None
            )
        frames = [call_frame(2 * i + 1, method="/none") for i in range(20_000)]
        await peer.send(*frames)
        end = await link.wait_ended()
        await clock.wait_timers(1)
        while link in pair.links.links:
            clock.advance(1.0)
            await asyncio.sleep(0)

    assert end.text.startswith("the peer does not read")


# What a hostile peer answers.


async def answered(dialled: Any, run: Any, *frames: Any) -> Any:
    """Send `frames` for the call that `run` makes, by hand, and return what comes of it."""
    channel, _, raw = dialled
    task = asyncio.ensure_future(run(stub_on(channel)))
    peer = await raw.peers.get()
    await peer.send(hello())
    made = await peer.frame(CALL)
    for found in frames:
        found.call_id = found.call_id or made.call_id
    await peer.send(*frames)
    try:
        return await task
    except aio.AioRpcError as exc:
        return exc


async def ask(stub: Any) -> Any:
    return await stub.Call(call())


async def read(stub: Any) -> Any:
    return [event.data async for event in stub.StreamCall(stream())]


HOSTILE_ANSWERS = {
    "code": (frame(END, code=99), "the peer sent status code 99"),
    "no message": (frame(END), "the answer has no message"),
    "message": (frame(END, message=b"\xff"), "Exception deserializing response!"),
    "key": (frame(END, code=5, metadata=[{"key": "K"}]), "the trailing metadata is illegal"),
    "metadata": (
        frame(END, code=5, metadata=[PAIR] * 40_000),
        "the trailing metadata is larger than 65536 bytes",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_ANSWERS)
async def test_hostile_answer_ends_its_call_alone(dialled: Any, name: str) -> None:
    """An answer that makes no sense is an error of that call; the link stays open."""
    end, text = HOSTILE_ANSWERS[name]
    found = await answered(dialled, ask, end)

    assert found.details() == text
    assert (await dialled[0].wait_open()).is_open


async def test_overrun_credit_ends_the_call(dialled: Any) -> None:
    """A peer that sends beyond the credit has that call ended, and hears it."""
    events = [frame(MESSAGE, message=EVENT(data=b"x" * 100_000).SerializeToString())] * 10
    channel, _, raw = dialled
    running = stub_on(channel).StreamCall(stream())
    first = asyncio.ensure_future(running.read())
    peer = await raw.peers.get()
    await peer.send(hello())
    made = await peer.frame(CALL)
    for event in events:
        event.call_id = made.call_id
    await peer.send(*events)
    cancel = await peer.frame(CANCEL)
    await first
    with pytest.raises(aio.AioRpcError) as caught:
        async for _ in running:
            pass

    assert cancel.call_id == made.call_id
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert caught.value.details() == "the peer sent more than its credit allows"
    assert (await channel.wait_open()).is_open


@pytest.mark.parametrize(
    "wrong", [frame(MESSAGE, 99, message=b""), frame(END, 99), hello(), frame(CANCEL, 1)]
)
async def test_hostile_frame_ends_the_link(dialled: Any, wrong: Any) -> None:
    """A frame for a call that never was ends the link; the calls on it fail with the reason."""
    found = await answered(dialled, ask, wrong)

    assert found.code() is grpc.StatusCode.UNAVAILABLE
    assert found.details().endswith("; work may have started")


async def test_stream_that_ends_early_is_what_the_peer_says(dialled: Any) -> None:
    """Messages and an end in one batch are read in order."""
    events = [
        frame(MESSAGE, message=EVENT(data=b"a").SerializeToString()),
        frame(END, code=15, details="cut"),
    ]
    found = await answered(dialled, read, *events)

    assert (found.code(), found.details()) == (grpc.StatusCode.DATA_LOSS, "cut")
