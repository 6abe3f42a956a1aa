"""The load: lean HTTP/1.1 client connections that check every answer.

One `asyncio.Protocol` per connection, no asyncio task, queue or timer per call: what the load
costs is taken from the core that it shares with the upstream.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import httptools
import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

BODY_BYTES: Final = 300
"""Size of a request's body, in bytes. Source: the work that the project's budget is stated for."""

TAIL_BYTES: Final = 1024
"""How much of a stream's end is kept to look for its finish; three usual events."""

STOP_TIMEOUT_S: Final = 15.0
"""Longest wait for calls in flight when the load stops; what is left then counts as an error."""

FINISH = re.compile(rb'"finish_reason":\s*"\w+"')


class WrongAnswerError(Exception):
    """The upstream itself does not answer as it should; nothing can be measured."""


class _Choice(msgspec.Struct):
    message: dict[str, object]
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]


_answers = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a right answer looks like, learned from the upstream itself.

    `size` is the body's length in bytes of an answer in one piece, or the number of events,
    `[DONE]` included, of a stream.
    """

    size: int
    slack: int = 0


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of call: the request as it goes onto the wire, and what must come back."""

    request: bytes
    stream: bool
    expected: Expected | None = None
    """None: status 200 is enough (used for `/health`, and to learn what to expect)."""

    def expecting(self, size: int, *, slack: int) -> Work:
        return Work(self.request, self.stream, Expected(size, slack))


def chat(model: str, *, stream: bool) -> Work:
    """A chat call whose body is exactly `BODY_BYTES` long."""
    body = b'{"model":"%s","stream":%s,"messages":[{"role":"user","content":"%s"}]}'
    fields = (model.encode(), b"true" if stream else b"false")
    padding = BODY_BYTES - len(body % (*fields, b""))
    whole = body % (*fields, (b"how dear is a call? " * 20)[:padding])
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(whole)
    )
    return Work(head + whole, stream)


def health() -> Work:
    return Work(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", stream=False)


@dataclass(slots=True)
class Tally:
    """What happened so far. Times in seconds."""

    calls: int = 0
    events: int = 0
    last_size: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    first_chunks_s: list[float] = field(default_factory=list)

    def forget_times(self) -> None:
        """Drop the latencies of the warm-up; errors stay."""
        self.latencies_s.clear()
        self.first_chunks_s.clear()


class Connection(asyncio.Protocol):
    """One keep-alive connection, one call at a time.

    `on_idle(connection)` is called after each call, right or wrong, while the connection still
    stands; `on_lost(connection)` once, when it is gone.
    """

    def __init__(
        self,
        tally: Tally,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.tally = tally
        self.on_idle = on_idle
        self.on_lost = on_lost
        self.work: Work | None = None
        self.transport: asyncio.Transport | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.sent_s = 0.0
        self.size = 0
        self.tail = b""
        self.parts: list[bytes] = []
        self.saw_event = False
        self.open_line = False

    def send(self, work: Work) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            self.tally.errors["connection closed before the call"] += 1
            return
        self.work = work
        self.size = 0
        self.tail = b""
        self.parts = []
        self.saw_event = self.open_line = False
        self.sent_s = time.perf_counter()
        transport.write(work.request)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport, always

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._end(f"not HTTP: {type(exc).__name__}")
            self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.transport = None
        if self.work is not None:
            self._end("connection closed before the end of the answer")
        self.on_lost(self)

    def on_body(self, body: bytes) -> None:
        work = self.work
        if work is None:
            return
        if not work.stream:
            self.size += len(body)
            self.parts.append(body)
            return
        if not self.saw_event and b"data:" in body:
            self.saw_event = True
            self.tally.first_chunks_s.append(time.perf_counter() - self.sent_s)
        count = body.count(b"\n\n")
        if self.open_line and body[:1] == b"\n":
            count += 1
        self.open_line = body[-1:] == b"\n" and body[-2:] != b"\n\n"
        self.size += count
        self.tally.events += count
        self.tail = (self.tail + body)[-TAIL_BYTES:]

    def on_message_complete(self) -> None:
        work = self.work
        if work is None:
            self.tally.errors["an answer that nobody asked for"] += 1
            self.abort()
            return
        took_s = time.perf_counter() - self.sent_s
        fault = _fault(
            work,
            status=self.parser.get_status_code(),
            size=self.size,
            body=self.tail if work.stream else b"".join(self.parts),
        )
        self._end(fault, took_s)
        if self.transport is not None and not self.transport.is_closing():
            if self.parser.should_keep_alive():
                self.on_idle(self)
            else:
                self.transport.close()

    def _end(self, fault: str | None, took_s: float = 0.0) -> None:
        self.work = None
        if fault is not None:
            self.tally.errors[fault] += 1
            return
        self.tally.calls += 1
        self.tally.last_size = self.size
        self.tally.latencies_s.append(took_s)


def _fault(work: Work, *, status: int, size: int, body: bytes) -> str | None:
    """Why the answer is wrong, or None if it is right and complete."""
    if status != 200:
        return f"status {status}"
    expected = work.expected
    if expected is not None and abs(size - expected.size) > expected.slack:
        unit = "events" if work.stream else "bytes"
        return f"{size} {unit} instead of {expected.size}"
    if work.stream:
        return _stream_fault(body)
    return None if expected is None else _answer_fault(body)


def _stream_fault(tail: bytes) -> str | None:
    if not FINISH.search(tail):
        return "stream without finish_reason"
    return None if b"data: [DONE]" in tail else "stream without [DONE]"


def _answer_fault(body: bytes) -> str | None:
    try:
        choices = _answers.decode(body).choices
    except msgspec.MsgspecError:
        return "answer is not a chat completion"
    if not choices or not choices[0].finish_reason or not choices[0].message.get("content"):
        return "answer without text or finish_reason"
    return None


class Load:
    """What every kind of load shares: its connections, and how it ends."""

    def __init__(self, port: int, work: Work) -> None:
        self.port = port
        self.work = work
        self.tally = Tally()
        self.opened: set[Connection] = set()
        self.stopping = False

    async def start(self) -> None:
        """Begin; returns when the load is fully there."""
        raise NotImplementedError

    def ages_s(self) -> list[float]:
        """How long the calls in flight have waited so far: no answer yet is no quick answer."""
        now_s = time.perf_counter()
        return [now_s - connection.sent_s for connection in self.opened if connection.work]

    def give_up(self) -> None:
        """Send nothing new and leave what is in flight, as clients do that lose patience."""
        self.stopping = True
        self._close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: object
    ) -> None:
        if kind is None:
            await self.stop()
        else:
            self.stopping = True
            self._close()

    async def stop(self) -> None:
        """Send nothing new, wait for what is in flight, close everything."""
        self.stopping = True
        deadline_s = time.perf_counter() + STOP_TIMEOUT_S
        while any(connection.work for connection in self.opened):
            if time.perf_counter() > deadline_s:
                late = sum(1 for connection in self.opened if connection.work)
                self.tally.errors["no end of the answer in time"] += late
                break
            await asyncio.sleep(0.02)
        self._close()
        await asyncio.sleep(0.05)  # the other side sees the connections end before the next load

    def _close(self) -> None:
        for connection in list(self.opened):
            connection.work = None
            connection.abort()

    async def open(self) -> Connection | None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(self.tally, self.idle, self.lost), "127.0.0.1", self.port
            )
        except OSError as exc:
            self.tally.errors[f"connect: {type(exc).__name__}"] += 1
            return None
        self.opened.add(connection)
        return connection

    def idle(self, connection: Connection) -> None:
        """Say what a connection does after its call."""

    def lost(self, connection: Connection) -> None:
        self.opened.discard(connection)


class ClosedLoop(Load):
    """`connections` calls in flight, always: each connection sends its next call at once.

    They begin evenly over `ramp_s`, so that calls which all take the same time do not end in step.
    """

    def __init__(self, port: int, work: Work, *, connections: int, ramp_s: float = 0.0) -> None:
        super().__init__(port, work)
        self.connections = connections
        self.ramp_s = ramp_s
        self.dialling: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        begin_s = time.perf_counter()
        for index in range(self.connections):
            ahead_s = begin_s + self.ramp_s * index / self.connections - time.perf_counter()
            if ahead_s > 0.001:
                await asyncio.sleep(ahead_s)
            await self._begin()

    async def _begin(self) -> None:
        connection = await self.open()
        if connection is not None and not self.stopping:
            connection.send(self.work)

    def idle(self, connection: Connection) -> None:
        if not self.stopping:
            connection.send(self.work)

    def lost(self, connection: Connection) -> None:
        super().lost(connection)
        # One that closes under us is replaced, but not faster than a failing server deserves.
        if not self.stopping and self.tally.errors.total() < 1000:
            task = asyncio.get_running_loop().create_task(self._begin())
            self.dialling.add(task)
            task.add_done_callback(self.dialling.discard)


class Streams(Load):
    """One call on each of `connections`, started evenly over `ramp_s`, so paces do not align."""

    def __init__(self, port: int, work: Work, *, connections: int, ramp_s: float) -> None:
        super().__init__(port, work)
        self.connections = connections
        self.ramp_s = ramp_s

    async def start(self) -> None:
        begin_s = time.perf_counter()
        for index in range(self.connections):
            ahead_s = begin_s + self.ramp_s * index / self.connections - time.perf_counter()
            if ahead_s > 0.001:
                await asyncio.sleep(ahead_s)
            connection = await self.open()
            if connection is not None:
                connection.send(self.work)


class OpenLoop(Load):
    """`rate` calls a second whatever the answers do, at slightly uneven times.

    A call that finds no idle connection opens one, so a slow answer never delays the next call
    (no coordinated omission).
    """

    def __init__(self, port: int, work: Work, *, rate: float, ready: int = 8) -> None:
        super().__init__(port, work)
        self.period_s = 1.0 / rate
        self.ready = ready
        self.free: list[Connection] = []
        self.dialling: set[asyncio.Task[None]] = set()
        self.due_s = 0.0
        self.random = random.Random(1)

    async def start(self) -> None:
        self.free = [made for _ in range(self.ready) if (made := await self.open())]
        self.due_s = asyncio.get_running_loop().time()
        self._fire()

    def idle(self, connection: Connection) -> None:
        self.free.append(connection)

    def lost(self, connection: Connection) -> None:
        super().lost(connection)
        if connection in self.free:
            self.free.remove(connection)

    def _fire(self) -> None:
        if self.stopping:
            return
        if self.free:
            self.free.pop().send(self.work)
        else:
            task = asyncio.get_running_loop().create_task(self._dial())
            self.dialling.add(task)
            task.add_done_callback(self.dialling.discard)
        self.due_s += self.gap_s()
        asyncio.get_running_loop().call_at(self.due_s, self._fire)

    def gap_s(self) -> float:
        """Seconds until the next call."""
        # Uneven, since an even beat can fall in step with a timer of the system under test.
        return self.period_s * self.random.uniform(0.7, 1.3)

    async def _dial(self) -> None:
        connection = await self.open()
        if connection is not None and not self.stopping:
            connection.send(self.work)


class Arrivals(OpenLoop):
    """`rate` calls a second on average, from people who know nothing of each other: Poisson.

    The times are the same in each run.
    """

    def gap_s(self) -> float:
        return self.random.expovariate(1.0 / self.period_s)


async def learn(port: int, work: Work) -> Work:
    """The same work, expecting what `port` (the upstream itself) answers to it."""
    load = Streams(port, work, connections=1, ramp_s=0.0)
    async with load:
        pass
    if load.tally.errors or not load.tally.last_size:
        raise WrongAnswerError(f"the upstream does not answer rightly: {dict(load.tally.errors)}")
    # An answer in one piece may differ by the digits of an id or a time, a stream's events not.
    return work.expecting(load.tally.last_size, slack=0 if work.stream else 8)
