"""Calls over a link behave as calls over gRPC, whichever side makes them."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import grpc
import pytest
from grpc import aio
from link_peers import METHOD, call, servicers_of, serving, stream, stub_on

from first_core.link import LinkChannel, LinkOptions, LinkServer, surely_not_started
from first_proto.v1 import inference_pb2_grpc

both_ways = pytest.mark.parametrize("way", ["out", "back"])


async def settle(condition: Any) -> None:
    """Let the loop turn until `condition` holds."""
    while not condition():  # noqa: ASYNC110 - sockets tell no event
        await asyncio.sleep(0)


@both_ways
async def test_calls_flow_either_way(pair: Any, way: str) -> None:
    """The side that dialled and the side that was dialled call each other alike."""
    stub = pair.stubs[way]
    answer = await stub.Call(call(body=b"\xff"))
    events = [event.data async for event in stub.StreamCall(stream())]

    assert answer.body == b"\xff"
    assert events == [b"0", b"1", b"2"]


async def test_a_thousand_calls_never_mix(pair: Any) -> None:
    """Each of 1,000 calls in flight, half in each direction, gets its own answer."""
    bodies = [b"%d" % index for index in range(1000)]
    runs = [
        pair.stubs["out" if index % 2 else "back"].Call(call("tick", body))
        for index, body in enumerate(bodies)
    ]
    answers = await asyncio.gather(*runs)

    assert [answer.body for answer in answers] == bodies


async def test_streams_and_calls_never_mix(pair: Any) -> None:
    """Streams side by side each get their own events, in order."""

    async def read(count: int) -> list[int]:
        return [int(event.data) async for event in pair.stubs["out"].StreamCall(stream("", count))]

    found = await asyncio.gather(*(read(count) for count in range(1, 60)))

    assert found == [list(range(count)) for count in range(1, 60)]


@both_ways
async def test_deadline_ends_both_sides(pair: Any, clock: Any, way: str) -> None:
    """At its deadline a call ends with DEADLINE_EXCEEDED, and its servicer is cancelled."""
    servicer = pair.servicers[way]
    run = asyncio.ensure_future(pair.stubs[way].Call(call("hang"), timeout=5.0))
    await servicer.begun.wait()
    left_s = servicer.contexts[0].time_remaining()
    clock.advance(5.0)
    with pytest.raises(aio.AioRpcError) as caught:
        await run
    await servicer.stopped.wait()

    assert 4.9 < left_s <= 5.0
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert caught.value.details() == "Deadline Exceeded"


async def test_deadline_that_has_passed_sends_nothing(pair: Any) -> None:
    """A call without time left fails at once and reaches nobody."""
    with pytest.raises(aio.AioRpcError) as caught:
        await pair.stubs["out"].Call(call(), timeout=0)
    await pair.stubs["out"].Call(call())

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(pair.servicers["out"].contexts) == 1


@both_ways
async def test_cancelled_task_stops_the_servicer(pair: Any, way: str) -> None:
    """A caller that leaves before the answer stops the work."""
    servicer = pair.servicers[way]
    task = asyncio.ensure_future(pair.stubs[way].Call(call("hang")))
    await servicer.begun.wait()
    task.cancel()
    await servicer.stopped.wait()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert pair.ends[way].statistics().sent_call_count == 0


@both_ways
async def test_cancelled_push_stops_the_servicer(pair: Any, way: str) -> None:
    """A caller that leaves amid a stream stops the work."""
    servicer, first = pair.servicers[way], asyncio.Event()

    async def receive(_message: Any) -> None:
        first.set()

    task = asyncio.ensure_future(pair.stubs[way].StreamCall(stream("hang")).push_into(receive))
    await first.wait()
    task.cancel()
    await servicer.stopped.wait()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_reader_that_fails_stops_the_servicer(pair: Any) -> None:
    """What `receive` raises ends the call and passes through."""

    async def receive(_message: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        await pair.stubs["out"].StreamCall(stream("hang")).push_into(receive)
    await pair.servicers["out"].stopped.wait()


async def test_stream_that_nobody_reads_any_more_is_ended(pair: Any) -> None:
    """A stream whose call object is dropped stops the servicer, as with grpc.aio."""
    running = pair.stubs["out"].StreamCall(stream("hang"))
    await running.read()
    del running
    gc.collect()
    await pair.servicers["out"].stopped.wait()


async def test_cancelled_call_says_so(pair: Any) -> None:
    """After `cancel`, reading raises CancelledError and the code is CANCELLED."""
    running = pair.stubs["out"].StreamCall(stream("hang"))
    await running.read()

    assert running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running.read()
    assert running.cancelled()
    assert await running.code() is grpc.StatusCode.CANCELLED
    assert not running.cancel()


async def test_call_cancelled_while_the_peer_is_full_is_never_sent(open_pair: Any) -> None:
    """A call that waits for room can leave; the peer hears nothing of it."""
    async with open_pair(max_call_count=1) as pair:
        servicer, stub = pair.servicers["out"], pair.stubs["out"]
        held = asyncio.ensure_future(stub.Call(call("held")))
        await servicer.begun.wait()
        waiting = asyncio.ensure_future(stub.Call(call()))
        await asyncio.sleep(0)
        waiting.cancel()
        servicer.release.set()
        await held

        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert len(servicer.contexts) == 1


async def test_calls_wait_for_room_at_the_peer(open_pair: Any) -> None:
    """Calls beyond the peer's limit wait their turn; all are answered."""
    async with open_pair(max_call_count=2) as pair:
        bodies = [b"%d" % index for index in range(20)]
        answers = await asyncio.gather(
            *(pair.stubs["out"].Call(call("tick", body)) for body in bodies)
        )

    assert [answer.body for answer in answers] == bodies


async def test_deadline_holds_while_waiting_for_room(open_pair: Any, clock: Any) -> None:
    """A call that waits for room ends at its deadline."""
    async with open_pair(max_call_count=1) as pair:
        servicer, stub = pair.servicers["out"], pair.stubs["out"]
        held = asyncio.ensure_future(stub.Call(call("held")))
        await servicer.begun.wait()
        waiting = asyncio.ensure_future(stub.Call(call(), timeout=3.0))
        await settle(lambda: clock.timer_count > 2)
        clock.advance(3.0)
        with pytest.raises(aio.AioRpcError) as caught:
            await waiting
        servicer.release.set()
        await held

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def outcome(run: Any) -> tuple[Any, ...]:
    try:
        answer = await run
    except aio.AioRpcError as exc:
        trailing = [tuple(pair) for pair in exc.trailing_metadata() or ()]
        return exc.code(), exc.details(), [p for p in trailing if p[0] != "first-link-not-started"]
    return ("answered", answer)


@pytest.mark.parametrize("model", ["", "abort", "bug", "code", "trailing"])
async def test_statuses_are_those_of_grpc(pair: Any, model: str) -> None:
    """Code, message and trailing metadata are what grpc.aio makes of the same servicer."""
    server = aio.server()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(pair.servicers["out"], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        wanted = await outcome(stub_on(channel).Call(call(model)))
    await server.stop(None)

    assert await outcome(pair.stubs["out"].Call(call(model))) == wanted


async def test_trailing_metadata_comes_with_success(pair: Any) -> None:
    """What a servicer sets beside its answer can be read by the caller."""
    running = pair.stubs["out"].Call(call("trailing"))
    await running

    assert await running.code() is grpc.StatusCode.OK
    assert tuple(await running.trailing_metadata()) == (("k", "v"),)


async def test_answer_can_be_awaited_again(pair: Any) -> None:
    """Awaiting a call that has ended returns the same answer, and asks nobody."""
    running = pair.stubs["out"].Call(call("", b"x"))

    assert await running is await running
    assert len(pair.servicers["out"].contexts) == 1


async def test_method_that_is_not_served_is_unimplemented(pair: Any) -> None:
    """A method that nobody has registered ends with UNIMPLEMENTED, as does a default one."""
    unknown = await outcome(pair.channel.unary_unary("/first.v1.Nobody/Call")(b""))
    bare = servicers_of(inference_pb2_grpc.InferenceServiceServicer()).find(METHOD)
    pair.links.add_registered_method_handlers("first.v1.Bare", {"Call": bare})
    default = await outcome(pair.channel.unary_unary("/first.v1.Bare/Call")(b""))

    assert unknown == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!", [])
    assert default == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!", [])


async def test_generator_may_serve_a_stream(pair: Any) -> None:
    """A servicer that yields is as good as one that writes."""

    async def count(_request: bytes, _context: Any) -> Any:
        for index in range(3):
            yield b"%d" % index

    handler = grpc.unary_stream_rpc_method_handler(count)
    pair.links.add_registered_method_handlers("x.X", {"Count": handler})
    found = [message async for message in pair.channel.unary_stream("/x.X/Count")(b"")]

    assert found == [b"0", b"1", b"2"]


@pytest.mark.parametrize(
    ("method", "message", "text"),
    [(METHOD, b"\xff\xff", "Exception deserializing request!"), ("/x.X/Echo", b"", None)],
)
async def test_request_that_does_not_parse_is_internal(
    pair: Any, method: str, message: bytes, text: str | None
) -> None:
    """A request that the servicer cannot read ends that call alone."""
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    pair.links.add_registered_method_handlers("x.X", {"Echo": handler})
    found = await outcome(pair.channel.unary_unary(method)(message))

    assert found == ((grpc.StatusCode.INTERNAL, text, []) if text else ("answered", b""))


async def _echo(request: bytes, _context: Any) -> bytes:
    return request


async def test_answer_that_does_not_parse_is_internal(pair: Any) -> None:
    """An answer that the caller cannot read ends that call alone."""
    handler = grpc.unary_unary_rpc_method_handler(_echo)
    pair.links.add_registered_method_handlers("x.X", {"Echo": handler})
    method = pair.channel.unary_unary("/x.X/Echo", None, lambda _data: 1 / 0)

    assert await outcome(method(b"")) == (
        grpc.StatusCode.INTERNAL,
        "Exception deserializing response!",
        [],
    )


async def test_message_beyond_the_limit_is_refused(open_pair: Any) -> None:
    """A request larger than the peer takes fails here; an answer larger than we take, there."""
    far = LinkOptions(max_message_bytes=1000)
    async with open_pair(far=far, max_message_bytes=500) as pair:
        request = await outcome(pair.stubs["out"].Call(call(body=b"x" * 1100)))
        answer = await outcome(pair.stubs["out"].Call(call(body=b"x" * 600)))
        fits = await pair.stubs["out"].Call(call(body=b"x" * 400))

    assert request[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert answer[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(fits.body) == 400


async def test_message_at_the_limit_passes(pair: Any) -> None:
    """The largest message passes in both directions, beside others."""
    body = b"x" * (32 * 1024 * 1024 - 100)
    answers = await asyncio.gather(
        *(pair.stubs["out"].Call(call("", found)) for found in (b"a", body, b"b"))
    )

    assert [len(answer.body) for answer in answers] == [1, len(body), 1]


async def test_metadata_beyond_the_limit_is_refused(open_pair: Any) -> None:
    """Metadata larger than the peer takes fails the call, unsent."""
    async with open_pair(max_metadata_bytes=100) as pair:
        with pytest.raises(aio.AioRpcError) as caught:
            await pair.stubs["out"].Call(call(), metadata=(("k", "v" * 100),))
        await pair.stubs["out"].Call(call(), metadata=(("k", "v" * 99),))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert surely_not_started(caught.value)


@pytest.mark.parametrize("pair_of", [("K", "v"), ("k", "é"), ("k", b"v"), ("k-bin", "v")])
async def test_illegal_metadata_is_the_callers_fault(pair: Any, pair_of: Any) -> None:
    """Metadata that gRPC would not carry raises where the call is made."""
    with pytest.raises(ValueError, match="illegal"):
        await pair.stubs["out"].Call(call(), metadata=(pair_of,))


async def test_servicer_knows_its_link() -> None:
    """A servicer can tell which peer calls, as whom it was admitted, and call it back."""
    servicers: list[Any] = []

    async def admit(context: Any) -> str:
        return dict(context.invocation_metadata())["name"]

    async def introduce() -> Any:
        return (("name", "agent-7"),)

    links = LinkServer(admit=admit)
    handler = grpc.unary_unary_rpc_method_handler(_who(servicers))
    links.add_registered_method_handlers("x.X", {"Who": handler})
    async with serving(links) as (target, _):
        channel = LinkChannel(aio.insecure_channel(target), introduce=introduce)
        found = await channel.unary_unary("/x.X/Who")(b"")
        await channel.close()

    assert found == b"agent-7"
    assert servicers[0].peer().startswith("ipv4:127.0.0.1:")


def _who(contexts: list[Any]) -> Any:
    async def who(_request: bytes, context: Any) -> bytes:
        contexts.append(context)
        return context.link.admitted.encode()

    return who


def test_streamed_requests_are_refused() -> None:
    """A service that streams requests cannot be registered for links."""
    handler = grpc.stream_unary_rpc_method_handler(_echo)

    with pytest.raises(ValueError, match="streams requests"):
        LinkServer().add_registered_method_handlers("x.X", {"Up": handler})
