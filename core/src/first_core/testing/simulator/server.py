"""The simulated server itself: listens, routes, counts, and lets tests wait for what happens."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Self

from first_core.testing.simulator import routes
from first_core.testing.simulator.engine import Engine
from first_core.testing.simulator.errors import ApiError, error_body
from first_core.testing.simulator.faults import Faults
from first_core.testing.simulator.generation import Generator
from first_core.testing.simulator.http import Connection, Exchange
from first_core.testing.simulator.settings import SimulatorSettings
from first_core.testing.simulator.spoil import SpoiledExchange

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from first_core.testing.simulator.http import Request

_log = logging.getLogger(__name__)

Received = tuple[str, str, dict[str, str], bytes]
"""Method, path with its query, headers with names in lower case, raw body."""


class Simulator:
    """A simulated inference server on a real socket.

        async with Simulator(SimulatorSettings(models=("m",))) as sim:
            sim.faults.add(ErrorStatus(status=503))
            ...  # call sim.url

    Everything happens in the event loop that starts it. `start` and `stop` can be repeated.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.faults = Faults(
            ratio=self.settings.fault_ratio,
            drawn=self.settings.random_faults,
            seed=self.settings.seed,
        )
        self.generator = Generator(self.settings)
        self.engine = Engine(self.settings, self._changed)
        self.received: deque[Received] = deque(maxlen=self.settings.received_limit)
        self.received_count = 0
        """Requests since the start, also those that `received` has dropped."""
        self.abort_count = 0
        """Requests whose client left before their answer was complete."""
        self.is_sleeping = False
        """Whether `POST /sleep` was the last word; calls fail meanwhile."""
        self.host = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._listening = False
        self._connections: set[Connection] = set()
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._authorization = f"Bearer {self.settings.api_key}"
        self._id_base = secrets.token_hex(10)
        self._id_numbers = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """Base address, without a slash at the end."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def running_count(self) -> int:
        """Calls that are being answered now."""
        return self.engine.running_count

    @property
    def waiting_count(self) -> int:
        """Calls that wait for a slot."""
        return len(self.engine.waiting)

    @property
    def connection_count(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; port 0 takes a free one. Does nothing where it listens already."""
        if self._server is None:
            self.host, self.port = host, port
            await self.resume_listening()

    async def stop(self) -> None:
        """Stop listening and drop all connections; nothing is left open."""
        await self.pause_listening()
        self.port = 0

    async def pause_listening(self, *, drop: bool = True) -> None:
        """Refuse new connections on the port, as a server that is down.

        Args:
            drop: Reset the open connections too.
        """
        server, self._server = self._server, None
        self._listening = False
        if server is not None:
            server.close()
        if drop:
            for connection in list(self._connections):
                connection.reset()
            await self._wait(lambda: not self._connections, 10.0)
        if server is not None and not self._connections:
            await server.wait_closed()

    async def resume_listening(self) -> None:
        """Listen again on the same port."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._listening = True
            self._server = await loop.create_server(
                lambda: Connection(self), self.host, self.port, reuse_address=True, backlog=1024
            )
            self.port = self._server.sockets[0].getsockname()[1]

    async def wait_received(self, count: int, *, timeout_s: float = 10.0) -> None:
        """Wait until at least `count` requests have come in whole since the start."""
        await self._wait(lambda: self.received_count >= count, timeout_s)

    async def wait_aborts(self, count: int, *, timeout_s: float = 10.0) -> None:
        """Wait until at least `count` clients have left their calls since the start."""
        await self._wait(lambda: self.abort_count >= count, timeout_s)

    async def wait_running(self, count: int, *, timeout_s: float = 10.0) -> None:
        """Wait until at least `count` calls are being answered."""
        await self._wait(lambda: self.running_count >= count, timeout_s)

    async def wait_waiting(self, count: int, *, timeout_s: float = 10.0) -> None:
        """Wait until at least `count` calls wait for a slot."""
        await self._wait(lambda: self.waiting_count >= count, timeout_s)

    async def wait_idle(self, *, timeout_s: float = 10.0) -> None:
        """Wait until no call is being answered or waits."""
        await self._wait(lambda: not self.running_count and not self.waiting_count, timeout_s)

    def next_id(self, request: Request) -> str:
        """Return the id of a call without its prefix: the client's `X-Request-Id`, or a new one."""
        return request.headers.get("x-request-id") or (
            f"{self._id_base}{next(self._id_numbers):012x}"
        )

    # The connection's side

    def connected(self, connection: Connection) -> bool:
        """Take a connection up; False where it was closed at once."""
        if not self._listening:
            # Accepted in the very tick in which the server went.
            connection.reset()
            return False
        self._connections.add(connection)
        refusal = self.faults.take_refusal() if self.faults.active else None
        if refusal is None:
            return True
        if refusal.reset:
            connection.reset()
        else:
            connection.close()
        return False

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._changed()

    def serve(self, connection: Connection, request: Request) -> None:
        """Begin to answer a request; it may be answered on return."""
        self.received.append((request.method, request.target, request.headers, request.body))
        self.received_count += 1
        inference = request.path in routes.INFERENCE
        exchange = connection.exchange = self._exchange(connection, request, inference=inference)
        if self._waiters:
            self._changed()
        if not (isinstance(exchange, SpoiledExchange) and exchange.replaces_answer):
            self._answer(exchange)
            return
        if inference:
            self.engine.occupy(exchange)
        exchange.replace()

    def closed(self, exchange: Exchange, *, aborted: bool) -> None:
        """Learn that an exchange is over."""
        if aborted:
            self.abort_count += 1
        if exchange.slot:
            self.engine.leave(exchange)
        elif aborted:
            self._changed()

    def _exchange(self, connection: Connection, request: Request, *, inference: bool) -> Exchange:
        if self.faults.active:
            posted = inference and request.method == "POST"
            fault = self.faults.take(request.path, inference=posted)
            if fault is not None:
                return SpoiledExchange(connection, request, fault)
        return Exchange(connection, request)

    def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        handlers = routes.ROUTES.get(request.path)
        if handlers is None:
            exchange.plain(404, b'{"detail":"Not Found"}')
            return
        handler = handlers.get(request.method)
        if handler is None:
            allow = (("allow", ", ".join(handlers)),)
            exchange.plain(405, b'{"detail":"Method Not Allowed"}', headers=allow)
            return
        if self.settings.api_key is not None and not self._admits(request):
            exchange.plain(401, b'{"error":"Unauthorized"}')
            return
        try:
            if self.is_sleeping and request.path in routes.INFERENCE:
                raise ApiError(500, "The engine is asleep", kind="InternalServerError")  # noqa: TRY301
            handler(self, exchange)
        except ApiError as exc:
            exchange.plain(exc.status, exc.body())
        except Exception:
            _log.exception("simulator_call_failed")
            exchange.plain(500, error_body(500, "The simulator failed; its log says why"))

    def _admits(self, request: Request) -> bool:
        # vLLM guards the paths under /v1 and no others.
        if not request.path.startswith("/v1"):
            return True
        given = request.headers.get("authorization", "")
        return secrets.compare_digest(given.encode(), self._authorization.encode())

    async def _wait(self, condition: Callable[[], bool], timeout_s: float) -> None:
        if condition():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (condition, future)
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await future
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _changed(self) -> None:
        if not self._waiters:
            return
        for condition, future in self._waiters:
            if not future.done() and condition():
                future.set_result(None)
        self._waiters = [waiter for waiter in self._waiters if not waiter[1].done()]


async def run_simulator(
    settings: SimulatorSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    on_start: Callable[[Simulator], None] | None = None,
) -> None:
    """Serve until cancelled.

    Args:
        settings: What to play.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        on_start: Called once, when the server listens.
    """
    simulator = Simulator(settings)
    await simulator.start(host, port)
    try:
        if on_start is not None:
            on_start(simulator)
        await asyncio.Event().wait()
    finally:
        await simulator.stop()
