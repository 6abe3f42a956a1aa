"""One link is shared by all: nobody fills it, and what is ready leaves together."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from link_peers import call, call_frame, frame, hello, raw_dial, stream

from first_core.link import LinkError
from first_core.link.frames import CREDIT, END, MESSAGE

CREDIT_BYTES = 64 * 1024


async def settle(condition: Any) -> None:
    """Let the loop turn until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - sockets tell no event
        await asyncio.sleep(0)


async def test_unread_stream_is_held_back(open_pair: Any) -> None:
    """A stream that nobody reads stops at its credit; others run at full speed meanwhile."""
    async with open_pair(initial_credit_bytes=CREDIT_BYTES) as pair:
        stub, servicer = pair.stubs["out"], pair.servicers["out"]
        unread = stub.StreamCall(stream("padded", 100_000))
        await unread.read()
        await settle(lambda: servicer.written * 1080 >= CREDIT_BYTES)
        held_at = servicer.written
        bodies = [b"%d" % index for index in range(500)]
        answers = await asyncio.gather(*(stub.Call(call("tick", body)) for body in bodies))
        events = [event.data async for event in stub.StreamCall(stream("", 1000))]
        still_at, statistics = servicer.written - len(events), pair.ends["back"].statistics()
        unread.cancel()

    assert [answer.body for answer in answers] == bodies
    assert len(events) == 1000
    assert still_at == held_at < 2 * CREDIT_BYTES / 1000
    assert statistics.unsent_bytes == 0


async def test_many_unread_streams_stay_within_their_credit(open_pair: Any) -> None:
    """What 50 unread streams hold in memory is bounded by the sum of their credits."""
    async with open_pair(initial_credit_bytes=10_000) as pair:
        stub, servicer = pair.stubs["out"], pair.servicers["out"]
        unread = [stub.StreamCall(stream("padded", 10_000)) for _ in range(50)]
        await asyncio.gather(*(running.read() for running in unread))
        answer = await stub.Call(call("", b"x"))
        written_bytes = servicer.written * 1000
        for running in unread:
            running.cancel()

    assert answer.body == b"x"
    assert written_bytes <= 50 * 2 * 10_000


async def test_slow_reader_gets_everything(open_pair: Any) -> None:
    """A stream far longer than its credit arrives whole, in order, as it is read."""
    async with open_pair(initial_credit_bytes=5000) as pair:
        running = pair.stubs["out"].StreamCall(stream("padded", 500))
        found = []
        async for event in running:
            found.append(int(event.data))
            if len(found) % 7 == 0:
                await asyncio.sleep(0)

    assert found == list(range(500))


async def test_message_larger_than_the_credit_passes(open_pair: Any) -> None:
    """A message may overdraw the credit; the next one waits until it was read."""
    async with open_pair(initial_credit_bytes=100) as pair:
        found = [int(e.data) async for e in pair.stubs["out"].StreamCall(stream("padded", 20))]

    assert found == list(range(20))


async def test_streams_wait_while_the_link_is_full(open_pair: Any) -> None:
    """Streams with credit left wait where more is unsent than `max_unsent_bytes`."""
    async with open_pair(max_unsent_bytes=2000, max_batch_bytes=2000) as pair:
        stub = pair.stubs["out"]
        runs = [_count(stub.StreamCall(stream("padded", 200))) for _ in range(10)]
        counts = await asyncio.gather(*runs)

    assert counts == [200] * 10


async def _count(running: Any) -> int:
    count = 0
    async for _ in running:
        count += 1
    return count


async def test_what_is_ready_in_one_tick_is_one_message(pair: Any) -> None:
    """100 calls made at once leave as one message, and so do their answers."""
    near, far = pair.ends["out"], pair.ends["back"]
    before, answered_before = near.statistics(), far.statistics()
    await asyncio.gather(*(pair.stubs["out"].Call(call()) for _ in range(100)))
    after, answered = near.statistics(), far.statistics()

    assert after.sent_frame_count - before.sent_frame_count == 100
    assert after.sent_batch_count - before.sent_batch_count == 1
    assert answered.sent_frame_count - answered_before.sent_frame_count == 100
    assert answered.sent_batch_count - answered_before.sent_batch_count <= 2


async def test_events_of_many_streams_share_messages(pair: Any) -> None:
    """What a streamed answer writes at once, and what its neighbours write then, goes together."""
    far = pair.ends["back"]
    before = far.statistics().sent_batch_count
    runs = [_count(pair.stubs["out"].StreamCall(stream("", 20))) for _ in range(20)]
    await asyncio.gather(*runs)

    assert far.statistics().sent_batch_count - before <= 3


async def test_batch_has_a_bound(open_pair: Any) -> None:
    """What is ready at once but too much for one message goes out as several."""
    async with open_pair(max_batch_bytes=10_000) as pair:
        before = pair.ends["out"].statistics().sent_batch_count
        runs = [pair.stubs["out"].Call(call("", b"x" * 900)) for _ in range(100)]
        await asyncio.gather(*runs)
        sent = pair.ends["out"].statistics().sent_batch_count - before

    assert 10 <= sent <= 12


async def test_servicer_sends_no_more_than_it_was_granted(open_pair: Any) -> None:
    """A peer that grants little gets little: the servicer waits for each credit."""
    async with open_pair() as pair, raw_dial(pair.target) as (peer, _):
        await peer.send(hello(initial_credit_bytes=1))
        request = stream("padded", 3).SerializeToString()
        method = "/first.v1.InferenceService/StreamCall"
        await peer.send(call_frame(1, method=method, message=request))
        await peer.frame(MESSAGE)
        servicer = pair.servicers["out"]
        written = servicer.written
        await peer.send(frame(CREDIT, 1, credit_bytes=3000))
        await peer.frame(MESSAGE)
        await peer.frame(MESSAGE)
        end = await peer.frame(END)

    assert written == 1
    assert end.code == 0


LARGE = 20_000_000


async def test_large_messages_do_not_stall_small_ones(pair: Any) -> None:
    """Calls made after a large one, in either direction, are answered long before it."""
    order: list[str] = []

    async def run(name: str, body: bytes) -> bytes:
        answer = await pair.stubs["out"].Call(call("", body))
        order.append(name)
        return bytes(answer.body)

    large = [asyncio.ensure_future(run("large", b"x" * LARGE)) for _ in range(2)]
    await settle(lambda: pair.ends["out"].statistics().sent_batch_count > 3)
    small = await asyncio.gather(*(run("small", b"%d" % index) for index in range(50)))
    seen = list(order)
    answers = await asyncio.gather(*large)

    assert small == [b"%d" % index for index in range(50)]
    assert seen == ["small"] * 50
    assert [len(answer) for answer in answers] == [LARGE] * 2


async def test_large_events_come_whole_and_in_order(pair: Any) -> None:
    """Events in parts, of several streams at once, never mix."""

    async def serve(request: bytes, context: Any) -> None:
        for index in range(3):
            await context.write(request * (200_000 + index))

    handler = grpc.unary_stream_rpc_method_handler(serve)
    pair.links.add_registered_method_handlers("x.X", {"Large": handler})
    method = pair.channel.unary_stream("/x.X/Large")

    async def read(letter: bytes) -> list[bytes]:
        return [event async for event in method(letter)]

    found = await asyncio.gather(*(read(letter) for letter in (b"a", b"b", b"c")))

    for letter, events in zip((b"a", b"b", b"c"), found, strict=True):
        assert events == [letter * (200_000 + index) for index in range(3)]


async def test_cancel_amid_a_large_request_ends_it(pair: Any) -> None:
    """A caller that leaves while its request is on the way starts nothing and blocks nothing."""
    task = asyncio.ensure_future(pair.stubs["out"].Call(call("", b"x" * LARGE)))
    await settle(lambda: pair.ends["back"].statistics().received_frame_count > 3)
    task.cancel()
    answer = await pair.stubs["out"].Call(call("", b"y"))
    with pytest.raises(asyncio.CancelledError):
        await task

    assert answer.body == b"y"
    assert len(pair.servicers["out"].contexts) == 1
    assert pair.ends["out"].statistics().unsent_bytes == 0


async def test_loss_amid_a_large_request_started_nothing(pair: Any) -> None:
    """A call whose request did not arrive whole goes on the next link by itself."""
    run = asyncio.ensure_future(pair.stubs["out"].Call(call("", b"x" * LARGE)))
    await settle(lambda: pair.ends["back"].statistics().received_frame_count > 3)
    pair.ends["back"]._ended_by(LinkError(grpc.StatusCode.UNAVAILABLE, "cut"))
    while not run.done():
        pair.channel.clock.advance(0.001)
        await asyncio.sleep(0)
    answer = await run

    assert len(answer.body) == LARGE
    assert len(pair.servicers["out"].contexts) == 1
