"""Opening, losing, finding again and leaving a link."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import grpc
import pytest
from grpc import aio
from link_peers import (
    METHOD,
    Servicer,
    call,
    frame,
    hello,
    raw_dial,
    serving,
    stream,
    stub_on,
)

from first_core.client import connect, connect_link
from first_core.link import LinkChannel, LinkOptions, LinkServer, surely_not_started
from first_core.link.frames import CALL, END, GOAWAY, HELLO, MESSAGE, PING, PONG
from first_proto.v1 import inference_pb2_grpc


async def settle(condition: Any) -> None:
    """Let the loop turn until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - sockets tell no event
        await asyncio.sleep(0)


def linked(servicer: Any, **options: Any) -> LinkServer:
    links = LinkServer(**options)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, links)
    return links


# Version.


async def test_newer_minor_version_is_accepted(pair: Any) -> None:
    """A peer of a newer minor version is served; kinds of frames that it adds are passed over."""
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello(minor=9), frame(77, 5), frame(CALL, 1, method=METHOD))
        says = await peer.frame(HELLO)
        end = await peer.frame(END)

    assert (says.hello.major_version, says.hello.minor_version) == (1, 0)
    assert end.code == 0


async def test_other_major_version_is_refused(pair: Any) -> None:
    """A peer that dials with another major version is told both versions."""
    async with raw_dial(pair.target) as (peer, rpc):
        await peer.send(hello(major=2))
        await peer.drain()
        code, details = await rpc.code(), await rpc.details()

    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details == "link version 2.0 is not spoken here, 1.0 is"


async def test_calls_to_another_major_version_say_so(dialled: Any) -> None:
    """Calls to a peer of another major version fail at once, with both versions."""
    channel, _, raw = dialled
    run = asyncio.ensure_future(stub_on(channel).Call(call()))
    peer = await raw.peers.get()
    await peer.send(hello(major=3, minor=1))
    with pytest.raises(aio.AioRpcError) as caught:
        await run

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "link version 3.1 is not spoken here, 1.0 is"
    assert surely_not_started(caught.value)


async def test_peer_that_says_no_hello_is_given_up(dialled: Any, clock: Any) -> None:
    """A peer that takes the stream and says nothing is no peer."""
    channel, _, raw = dialled
    run = asyncio.ensure_future(stub_on(channel).Call(call(), timeout=60))
    await raw.peers.get()
    await clock.wait_timers(2)
    clock.advance(5.0)
    with pytest.raises(aio.AioRpcError) as caught:
        await run

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# Signs of life.


async def open_by_hand(dialled: Any) -> tuple[Any, Any]:
    channel, _, raw = dialled
    opening = asyncio.ensure_future(channel.wait_open())
    peer = await raw.peers.get()
    await peer.send(hello())
    return await opening, peer


async def test_dead_peer_is_known_within_the_bound(dialled: Any, clock: Any) -> None:
    """A peer silent for `ping_after_s` is asked, and lost `ping_timeout_s` later."""
    link, peer = await open_by_hand(dialled)
    run = asyncio.ensure_future(stub_on(dialled[0]).Call(call("hang")))
    await peer.frame(CALL)
    clock.advance(10.0)
    await peer.frame(PING)
    clock.advance(4.9)
    alive = link.is_open
    clock.advance(0.1)
    with pytest.raises(aio.AioRpcError) as caught:
        await run

    assert alive
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == ("the peer has been silent for 15.0 s; work may have started")
    assert not surely_not_started(caught.value)


async def test_peer_that_answers_pings_is_kept(dialled: Any, clock: Any) -> None:
    """A quiet link stays open as long as pings are answered."""
    link, peer = await open_by_hand(dialled)
    for _ in range(5):
        clock.advance(10.0)
        await peer.frame(PING)
        before = link.statistics().received_frame_count
        await peer.send(frame(PONG))
        await settle(lambda seen=before: link.statistics().received_frame_count > seen)

    assert link.is_open


async def test_busy_link_sends_no_pings(pair: Any, clock: Any) -> None:
    """Whatever arrives is a sign of life."""
    near = pair.ends["out"]
    for _ in range(5):
        clock.advance(9.0)
        before = near.statistics().sent_frame_count
        await pair.stubs["out"].Call(call())
        assert near.statistics().sent_frame_count - before == 1


async def test_pings_are_answered(pair: Any) -> None:
    """A ping gets a pong, many at once get one."""
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(hello())
        await peer.send(*[frame(PING)] * 1000)
        await peer.frame(PONG)
        far = next(link for link in pair.links.links if link is not pair.ends["back"])

        assert far.statistics().sent_frame_count == 2


# Loss and return.


async def test_loss_fails_calls_and_the_next_ones_wait_for_the_return(clock: Any) -> None:
    """Calls in flight fail with UNAVAILABLE; a new call waits for the new link."""
    servicer = Servicer()
    async with serving(linked(servicer)) as (target, server):
        channel = LinkChannel(aio.insecure_channel(target, options=RECONNECT), clock=clock)
        stub = stub_on(channel)
        lost = [asyncio.ensure_future(stub.Call(call("hang"))) for _ in range(3)]
        events = stub.StreamCall(stream("hang"))
        await events.read()
        await server.stop(0)
        found = await asyncio.gather(*lost, return_exceptions=True)
        rest = [await events.read(), await events.read()]
        with pytest.raises(aio.AioRpcError) as amid:
            await events.read()
        waiting = asyncio.ensure_future(stub.Call(call("", b"x"), timeout=60))
        ticking = asyncio.ensure_future(_tick(clock))
        async with serving(linked(Servicer()), target):
            answer = await waiting
            ticking.cancel()
            await channel.close()

    assert {error.code() for error in found} == {grpc.StatusCode.UNAVAILABLE}
    assert all(error.details().endswith("; work may have started") for error in found)
    assert len(rest) == 2
    assert amid.value.code() is grpc.StatusCode.UNAVAILABLE
    assert answer.body == b"x"


RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 10),
    ("grpc.min_reconnect_backoff_ms", 10),
    ("grpc.max_reconnect_backoff_ms", 20),
]


async def _tick(clock: Any) -> None:
    """Let the link's pauses pass, but not the two seconds that a call waits."""
    while True:
        for _ in range(200):
            await asyncio.sleep(0)
        clock.advance(0.001)


async def test_call_does_not_wait_for_ever(clock: Any, unused_target: str) -> None:
    """A call without deadline fails after `reconnect_wait_s`, and says that nothing was started."""
    channel = LinkChannel(aio.insecure_channel(unused_target), clock=clock)
    run = asyncio.ensure_future(stub_on(channel).Call(call()))
    await clock.wait_timers(1)
    clock.advance(2.0)
    with pytest.raises(aio.AioRpcError) as caught:
        await run
    await channel.close()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert surely_not_started(caught.value)


async def test_waiting_call_ends_at_its_deadline(clock: Any, unused_target: str) -> None:
    """A call that waits for a link ends with DEADLINE_EXCEEDED when its time is over."""
    channel = LinkChannel(aio.insecure_channel(unused_target), clock=clock)
    run = asyncio.ensure_future(stub_on(channel).Call(call(), timeout=1.0))
    await clock.wait_timers(1)
    clock.advance(1.0)
    with pytest.raises(aio.AioRpcError) as caught:
        await run
    await channel.close()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_waiting_call_can_leave(clock: Any, unused_target: str) -> None:
    """A call that waits for a link can be cancelled."""
    channel = LinkChannel(aio.insecure_channel(unused_target), clock=clock)
    task = asyncio.ensure_future(stub_on(channel).Call(call()))
    await clock.wait_timers(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await channel.close()


async def test_pauses_between_attempts_grow(clock: Any) -> None:
    """Each failed attempt doubles the pause, up to its bound."""
    attempts, options = [], LinkOptions(first_backoff_s=1.0, max_backoff_s=4.0)

    async def introduce() -> Any:
        attempts.append(clock.monotonic())
        raise OSError

    channel = LinkChannel(
        aio.insecure_channel("127.0.0.1:1"), clock=clock, introduce=introduce, options=options
    )
    channel.start()
    while len(attempts) < 6:
        await clock.wait_timers(1)
        clock.advance(0.05)
        await settle_ticks()
    await channel.close()
    pauses = [after - before for before, after in itertools.pairwise(attempts)]

    for pause_s, bound_s in zip(pauses, [1.0, 2.0, 4.0, 4.0, 4.0], strict=True):
        assert 0.8 * bound_s <= pause_s <= bound_s + 0.11


async def settle_ticks() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_refused_introduction_fails_calls_at_once(clock: Any) -> None:
    """A peer that does not admit us fails calls with its own words, without a wait."""

    async def admit(context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the credential was used before")

    async with serving(linked(Servicer(), admit=admit)) as (target, _):
        channel = LinkChannel(aio.insecure_channel(target), clock=clock)
        with pytest.raises(aio.AioRpcError) as caught:
            await stub_on(channel).Call(call())
        await channel.close()

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "the credential was used before"


async def test_links_are_bounded(clock: Any) -> None:
    """A server takes `max_link_count` links and refuses more."""
    async with (
        serving(linked(Servicer(), clock=clock, max_link_count=1)) as (target, _),
        raw_dial(target) as (first, _),
    ):
        await first.send(hello())
        await first.frame(HELLO)
        async with raw_dial(target) as (_, second):
            code = await second.code()

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


# Fallback.


@pytest.mark.parametrize("streamed", [False, True])
async def test_peer_without_links_gets_one_rpc_per_call(streamed: bool) -> None:  # noqa: FBT001
    """A router that answers UNIMPLEMENTED is called plainly, behind the same stub."""
    servicer, server = Servicer(), aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = connect_link(f"127.0.0.1:{port}")
    stub, found = stub_on(channel), []

    async def receive(event: Any) -> None:
        found.append(event.data)

    if streamed:
        await stub.StreamCall(stream(), metadata=(("k", "v"),), timeout=5).push_into(receive)
    else:
        found.append((await stub.Call(call("", b"x"), metadata=(("k", "v"),), timeout=5)).body)
    await channel.close()
    await server.stop(None)

    assert found == ([b"0", b"1", b"2"] if streamed else [b"x"])
    assert ("k", "v") in [tuple(p) for p in servicer.contexts[0].invocation_metadata()]


async def test_channel_without_fallback_says_unimplemented(clock: Any) -> None:
    """Where only a link will do, a server without links fails calls with UNIMPLEMENTED."""
    server = aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = LinkChannel(connect(f"127.0.0.1:{port}"), clock=clock)
    with pytest.raises(aio.AioRpcError) as caught:
        await stub_on(channel).Call(call())
    await channel.close()
    await server.stop(None)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Leaving.


@pytest.mark.parametrize("leaver", ["out", "back"])
@pytest.mark.parametrize("way", ["out", "back"])
async def test_calls_in_flight_end_before_the_link_does(pair: Any, leaver: str, way: str) -> None:
    """A side that leaves lets the calls of both directions end."""
    servicer, end = pair.servicers[way], pair.ends[leaver]
    held = asyncio.ensure_future(pair.stubs[way].Call(call("held", b"x")))
    await servicer.begun.wait()
    leaving = asyncio.ensure_future(end.leave())
    await settle(lambda: not any(link.is_open for link in pair.ends.values()))
    still = [end.statistics() for end in pair.ends.values()]
    servicer.release.set()
    answer = await held
    await leaving
    await asyncio.gather(*(link.wait_ended() for link in pair.ends.values()))

    assert answer.body == b"x"
    assert sum(found.sent_call_count for found in still) == 1


async def test_calls_after_goaway_go_on_the_next_link(pair: Any) -> None:
    """A peer that leaves a link gets new calls on a new one, none of them lost."""
    servicer = pair.servicers["out"]
    held = asyncio.ensure_future(pair.stubs["out"].Call(call("held", b"x")))
    await servicer.begun.wait()
    leaving = asyncio.ensure_future(pair.ends["back"].leave())
    ticking = asyncio.ensure_future(_tick(pair.channel.clock))
    bodies = [b"%d" % index for index in range(50)]
    answers = await asyncio.gather(*(pair.stubs["out"].Call(call("", b)) for b in bodies))
    servicer.release.set()
    await asyncio.gather(held, leaving)
    ticking.cancel()

    assert [answer.body for answer in answers] == bodies
    assert (await held).body == b"x"


async def test_grace_bounds_the_leaving(pair: Any, clock: Any) -> None:
    """Calls that outlast the grace fail with UNAVAILABLE and are cancelled."""
    servicer = pair.servicers["out"]
    run = asyncio.ensure_future(pair.stubs["out"].Call(call("hang")))
    await servicer.begun.wait()
    leaving = asyncio.ensure_future(pair.links.stop(3.0))
    await settle(lambda: not pair.ends["out"].is_open)
    clock.advance(3.0)
    await leaving
    with pytest.raises(aio.AioRpcError) as caught:
        await run
    await servicer.stopped.wait()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stopping_server_takes_no_new_links(pair: Any) -> None:
    """A server that stops refuses to open links."""
    await pair.links.stop()
    async with raw_dial(pair.target) as (_, rpc):
        code = await rpc.code()

    assert code is grpc.StatusCode.UNAVAILABLE


async def test_call_that_crosses_a_goaway_is_refused_unstarted(pair: Any) -> None:
    """A call sent before the goaway arrived is told that it may be made elsewhere."""
    servicer = pair.servicers["out"]
    async with raw_dial(pair.target) as (peer, _):
        await peer.send(
            hello(), frame(CALL, 1, method=METHOD, message=call("held").SerializeToString())
        )
        await servicer.begun.wait()
        leaving = asyncio.ensure_future(pair.links.stop(None))
        await peer.frame(GOAWAY)
        await peer.send(frame(CALL, 3, method=METHOD))
        refused = await peer.frame(END)
        servicer.release.set()
        ended = await peer.frame(END)
        await leaving

    assert (refused.call_id, refused.not_started) == (3, True)
    assert (ended.call_id, ended.code) == (1, 0)


async def test_closed_channel_makes_no_calls(pair: Any) -> None:
    """After `close` calls fail at once; closing again does nothing."""
    await pair.channel.close()
    await pair.channel.close()
    with pytest.raises(aio.AioRpcError) as caught:
        await pair.stubs["out"].Call(call())

    assert caught.value.code() is grpc.StatusCode.CANCELLED


async def test_empty_messages_are_messages(dialled: Any) -> None:
    """A message without bytes is not the end of a stream."""
    _, peer = await open_by_hand(dialled)
    running = asyncio.ensure_future(_read_all(stub_on(dialled[0]).StreamCall(stream())))
    sent = await peer.frame(CALL)
    await peer.send(frame(MESSAGE, sent.call_id, message=b""), frame(END, sent.call_id))

    assert await running == [b""]


async def _read_all(running: Any) -> list[bytes]:
    return [event.data async for event in running]
