"""Links over real sockets, and peers that speak frames by hand."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from first_core.link import LinkChannel, LinkOptions, LinkServer, PeerChannel, Servicers
from first_core.link.frames import CALL, HELLO, hello_of
from first_proto.link.v1 import link_pb2, link_pb2_grpc
from first_proto.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENT = inference_pb2.StreamCallResponse
METHOD = "/first.v1.InferenceService/Call"
STREAM_METHOD = "/first.v1.InferenceService/StreamCall"


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    """Does what the model's name says, and tells what became of it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.stopped = asyncio.Event()
        self.release = asyncio.Event()
        self.written = 0
        self.contexts: list[Any] = []

    async def Call(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.contexts.append(context)
        self.begun.set()
        try:
            if request.model == "hang":
                await asyncio.Event().wait()
            if request.model == "held":
                await self.release.wait()
            if request.model == "abort":
                await context.abort(
                    grpc.StatusCode.NOT_FOUND, "gone", (("k", "v"), ("b-bin", b"\xff"))
                )
            if request.model == "bug":
                raise RuntimeError("oh")
            if request.model == "code":
                context.set_code(grpc.StatusCode.OUT_OF_RANGE)
                context.set_details("far")
            if request.model == "trailing":
                context.set_trailing_metadata((("k", "v"),))
            if request.model == "tick":
                await asyncio.sleep(0)
            return inference_pb2.CallResponse(body=request.body)
        finally:
            self.stopped.set()

    async def StreamCall(self, request: Any, context: Any) -> None:  # noqa: N802
        self.contexts.append(context)
        self.begun.set()
        try:
            for index in range(int(request.call.body)):
                await context.write(EVENT(data=b"%d" % index + b" " * self.padding(request)))
                self.written += 1
            if request.call.model == "hang":
                await asyncio.Event().wait()
            if request.call.model == "abort":
                await context.abort(grpc.StatusCode.DATA_LOSS, "cut")
        finally:
            self.stopped.set()

    @staticmethod
    def padding(request: Any) -> int:
        return 1000 if request.call.model == "padded" else 0


def call(model: str = "", body: bytes = b"") -> Any:
    return inference_pb2.CallRequest(model=model, body=body)


def stream(model: str = "", count: int = 3) -> Any:
    return inference_pb2.StreamCallRequest(call=call(model, b"%d" % count))


def stub_on(channel: Any) -> Any:
    return inference_pb2_grpc.InferenceServiceStub(channel)


def servicers_of(servicer: Any) -> Servicers:
    servicers = Servicers()
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, servicers)
    return servicers


class Pair:
    """Both ends of one link, each with a servicer and a stub that calls the other."""

    def __init__(self, links: LinkServer, channel: LinkChannel, target: str) -> None:
        self.links = links
        self.channel = channel
        self.target = target
        self.servicers: dict[str, Servicer] = {}
        self.stubs: dict[str, Any] = {}
        self.ends: dict[str, Any] = {}


@asynccontextmanager
async def serving(links: Any, address: str = "127.0.0.1:0") -> AsyncIterator[tuple[str, Any]]:
    """A gRPC server that takes links; yields its target and itself."""
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    link_pb2_grpc.add_LinkServiceServicer_to_server(links, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}", server
    finally:
        await server.stop(0)


@asynccontextmanager
async def paired(clock: Any, near: LinkOptions, far: LinkOptions) -> AsyncIterator[Pair]:
    called, calling = Servicer(), Servicer()
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def first(link: Any) -> None:
        if not opened.done():
            opened.set_result(link)

    links = LinkServer(options=far, clock=clock, on_open=first)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(called, links)
    async with serving(links) as (target, _):
        channel = LinkChannel(
            aio.insecure_channel(target),
            options=near,
            clock=clock,
            servicers=servicers_of(calling),
        )
        pair = Pair(links, channel, target)
        near_end = await channel.wait_open()
        far_end = await opened
        pair.ends = {"out": near_end, "back": far_end}
        pair.stubs = {"out": stub_on(channel), "back": stub_on(PeerChannel(far_end))}
        pair.servicers = {"out": called, "back": calling}
        try:
            yield pair
        finally:
            await channel.close()


class RawPeer:
    """One end of a link, frame by frame."""

    def __init__(self, write: Any, read: Any, batch: Any) -> None:
        self._write = write
        self._read = read
        self._batch = batch
        self._frames: list[Any] = []

    async def send(self, *frames: Any) -> None:
        await self._write(self._batch(frames=frames))

    async def frame(self, kind: int) -> Any:
        """The next frame of a kind; what comes before is dropped."""
        while True:
            while self._frames:
                found = self._frames.pop(0)
                if found.kind == kind:
                    return found
            batch = await self._read()
            assert batch is not aio.EOF
            self._frames.extend(batch.frames)

    async def drain(self) -> None:
        """Read until the other side has ended the stream."""
        with contextlib.suppress(aio.AioRpcError):
            while await self._read() is not aio.EOF:
                pass


def frame(kind: int, call_id: int = 0, **fields: Any) -> Any:
    return link_pb2.Frame(kind=kind, call_id=call_id, **fields)


def hello(major: int = 1, minor: int = 0, **limits: Any) -> Any:
    says = hello_of(LinkOptions(**limits))
    says.major_version, says.minor_version = major, minor
    return frame(HELLO, hello=says)


def call_frame(call_id: int, model: str = "", **fields: Any) -> Any:
    fields.setdefault("method", METHOD)
    fields.setdefault("message", call(model).SerializeToString())
    return frame(CALL, call_id, **fields)


class RawServer(link_pb2_grpc.LinkServiceServicer):
    """Takes links and leaves each to the test, as a `RawPeer`."""

    def __init__(self) -> None:
        self.peers: asyncio.Queue[RawPeer] = asyncio.Queue()
        self.release = asyncio.Event()

    async def Connect(self, _requests: Any, context: Any) -> None:  # noqa: N802
        peer = RawPeer(context.write, context.read, link_pb2.ConnectResponse)
        self.peers.put_nowait(peer)
        await self.release.wait()


@asynccontextmanager
async def raw_dial(target: str) -> AsyncIterator[tuple[RawPeer, Any]]:
    """Dial by hand; yields the peer and the RPC."""
    async with aio.insecure_channel(target) as connection:
        rpc = link_pb2_grpc.LinkServiceStub(connection).Connect()
        yield RawPeer(rpc.write, rpc.read, link_pb2.ConnectRequest), rpc
        rpc.cancel()
