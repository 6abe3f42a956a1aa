from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from grpc import aio

from first_core.client import connect
from first_core.errors import FirstError, NotFoundError
from first_core.plugin import FrontContext
from first_core.rpc.direct import DirectChannel
from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import Telemetry
from first_core.testing.clock import FakeClock
from first_core.wire.status import DETAILS_KEY, code_of, details_of
from first_gateway_http.app import HttpFront
from first_gateway_http.settings import HttpSettings
from first_proto.v1 import (
    catalog_pb2,
    catalog_pb2_grpc,
    common_pb2,
    inference_pb2,
    inference_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

HEAD = inference_pb2.CallHead(
    endpoint=common_pb2.EndpointRef(cluster="alpha", framework="vllm", model="m"),
    attempt_count=2,
    content_type="text/event-stream",
)


class FakeRouter(
    inference_pb2_grpc.InferenceServiceServicer, catalog_pb2_grpc.CatalogServiceServicer
):
    """A router that does what a test says, over any carrier."""

    def __init__(self) -> None:
        self.requests: list[inference_pb2.CallRequest] = []
        self.metadata: list[dict[str, str]] = []
        self.answer = inference_pb2.CallResponse(
            body=b'{"ok":true}', content_type="application/json", head=HEAD
        )
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.script: list[object] = []
        self.models: list[catalog_pb2.Model] = []
        self.endpoints: list[catalog_pb2.Endpoint] = []
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    @staticmethod
    def data(data: bytes) -> inference_pb2.StreamCallResponse:
        """Return a message with events."""
        return inference_pb2.StreamCallResponse(
            kind=inference_pb2.STREAM_EVENT_KIND_DATA, data=data
        )

    @staticmethod
    def head() -> inference_pb2.StreamCallResponse:
        """Return the message that says who answers."""
        return inference_pb2.StreamCallResponse(
            kind=inference_pb2.STREAM_EVENT_KIND_HEAD, head=HEAD
        )

    @staticmethod
    def trailer() -> inference_pb2.StreamCallResponse:
        """Return the message that says that the answer is complete."""
        return inference_pb2.StreamCallResponse(
            kind=inference_pb2.STREAM_EVENT_KIND_TRAILER, trailer=inference_pb2.CallTrailer()
        )

    @staticmethod
    def progress(**fields: Any) -> inference_pb2.StreamCallResponse:
        """Return a message that says why the call waits."""
        return inference_pb2.StreamCallResponse(
            kind=inference_pb2.STREAM_EVENT_KIND_PROGRESS,
            progress=inference_pb2.CallProgress(**fields),
        )

    def streams(self, *events: bytes) -> None:
        """Answer streams with these bytes, one message each, and completely."""
        self.script = [self.head(), *(self.data(event) for event in events), self.trailer()]

    async def Call(self, request, context):  # noqa: N802 - gRPC's name
        self._note(request, context)
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error is not None:
            await self._fail(self.error, context)
        return self.answer

    async def StreamCall(self, request, context):  # noqa: N802 - gRPC's name
        self._note(request.call, context)
        for step in self.script:
            if isinstance(step, Exception):
                await self._fail(step, context)
            await self._step(step, context)

    async def _step(self, step, context):
        try:
            await (step.wait() if isinstance(step, asyncio.Event) else context.write(step))
        except BaseException:
            # A write on a call that its client cancelled may raise gRPC's own error instead.
            self.cancelled.set()
            raise

    async def ListModels(self, request, context):  # noqa: N802 - gRPC's name
        self._note_metadata(context)
        if self.error is not None:
            await self._fail(self.error, context)
        return catalog_pb2.ListModelsResponse(models=self.models)

    async def GetModel(self, request, context):  # noqa: N802 - gRPC's name
        for model in self.models:
            if model.id == request.id:
                return catalog_pb2.GetModelResponse(model=model)
        return await self._fail(
            NotFoundError(f"no model {request.id}", metadata={"model": request.id}), context
        )

    async def ListEndpoints(self, request, context):  # noqa: N802 - gRPC's name
        if self.error is not None:
            await self._fail(self.error, context)
        return catalog_pb2.ListEndpointsResponse(endpoints=self.endpoints)

    def _note(self, request, context):
        self.requests.append(request)
        self._note_metadata(context)
        self.started.set()

    def _note_metadata(self, context):
        self.metadata.append(dict(context.invocation_metadata()))

    async def _fail(self, error, context):
        if not isinstance(error, FirstError):
            raise error
        await context.abort(
            code_of(error), error.message, trailing_metadata=((DETAILS_KEY, details_of(error)),)
        )

    def register(self, server: Any) -> None:
        """Serve on a gRPC server, or on what stands in for one."""
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(self, server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self, server)


class Running(NamedTuple):
    """A front that listens."""

    url: str
    front: HttpFront


class RawAnswer(NamedTuple):
    """What came back on a raw connection."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawConnection:
    """A connection on which a test says every byte itself."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> RawAnswer:
        """Read one answer, chunked or with a length."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {
            name.lower(): value
            for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        status = int(lines[0].split()[1])
        if headers.get("transfer-encoding") == "chunked":
            return RawAnswer(status, headers, b"".join([chunk async for chunk in self.chunks()]))
        length = int(headers.get("content-length", 0))
        return RawAnswer(status, headers, await self.reader.readexactly(length))

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield each chunk of a chunked body."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def is_closed(self) -> bool:
        """Wait until the other side closes, and tell whether nothing more came before."""
        return await self.reader.read() == b""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def telemetry(clock: FakeClock) -> Telemetry:
    return Telemetry(TelemetrySettings(), LogSettings(), clock)


@pytest.fixture(params=["direct"])
async def channel(router: FakeRouter, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    """The carrier: in process, or gRPC where a test asks for it by parameter."""
    if request.param == "direct":
        direct = DirectChannel()
        router.register(direct)
        yield direct
        return
    server = aio.server()
    router.register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with connect(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
async def start(
    channel: Any, telemetry: Telemetry, clock: FakeClock
) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """Starts fronts with the settings that it is given, and stops them at the end."""
    fronts = []

    async def start_front(**settings: Any) -> Running:
        settings = {"listen": "127.0.0.1:0", "drain_s": 0.0, **settings}
        front = HttpFront(FrontContext(channel, telemetry, clock), HttpSettings(**settings))
        fronts.append(front)
        [url] = await front.start()
        return Running(url, front)

    yield start_front
    for front in fronts:
        stopping = asyncio.create_task(front.stop())
        while not stopping.done():
            clock.advance(1)
            await asyncio.wait([stopping], timeout=0)
        await stopping


@pytest.fixture
async def url(start: Callable[..., Awaitable[Running]]) -> str:
    return (await start()).url


@pytest.fixture
async def http(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client whose base is a front with default settings."""
    async with aiohttp.ClientSession(url) as session:
        yield session


@pytest.fixture
async def dial() -> AsyncIterator[Callable[[str], Awaitable[RawConnection]]]:
    """Opens raw connections."""
    opened: list[RawConnection] = []

    async def dial_url(url: str) -> RawConnection:
        host, _, port = url.removeprefix("http://").rpartition(":")
        connection = RawConnection(*await asyncio.open_connection(host, int(port)))
        opened.append(connection)
        return connection

    yield dial_url
    for connection in opened:
        connection.writer.close()


@pytest.fixture
async def raw(url: str, dial: Callable[[str], Awaitable[RawConnection]]) -> RawConnection:
    """A raw connection to a front with default settings."""
    return await dial(url)


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    """Return a whole request."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def post() -> Callable[..., bytes]:
    """Writes whole requests."""
    return post_bytes


@pytest.fixture
def watch_spans(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Collects the spans that the front begins."""
    spans: list[Any] = []
    begin = telemetry.span

    def span(*args: Any, **kwargs: Any) -> Any:
        watched = WatchedSpan(begin(*args, **kwargs))
        spans.append(watched)
        return watched

    monkeypatch.setattr(telemetry, "span", span)
    return spans


class WatchedSpan:
    """A span that remembers how it ended."""

    def __init__(self, span: Any) -> None:
        self.context = span.context
        self.attributes: dict[str, Any] = {}
        self.ends: list[str | None] = []

    def set(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def end(self, error_type: str | None = None) -> None:
        self.ends.append(error_type)


@pytest.fixture
async def aiohttp_session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client without a base."""
    async with aiohttp.ClientSession() as session:
        yield session
