"""Builds the application, and listens."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from first_core.client import RouterClient
from first_core.errors import StartupError
from first_core.plugin import ActiveCalls, Front, FrontContext
from first_core.settings import ListenAddress, require_loopback
from first_gateway_http.connection import Connection
from first_gateway_http.cors import header_writer
from first_gateway_http.gateway import GATEWAY, Gateway
from first_gateway_http.routes.fallback import not_found
from first_gateway_http.routes.health import add_health_routes
from first_gateway_http.routes.inference import add_inference_routes
from first_gateway_http.routes.models import add_model_routes
from first_gateway_http.settings import HttpSettings

if TYPE_CHECKING:
    from first_core.plugin import PluginSettings

CLOSE_TIMEOUT_S: Final = 1.0
"""Longest wait for last words on connections that are being closed, in seconds."""

LINGER_S: Final = 5.0
"""How long the rest of a refused body is read and dropped, in seconds, so that the client sees
the refusal and no reset connection."""

RELOADED: Final = ("body_timeout_s", "heartbeat_s", "drain_s")
"""Settings that a reload changes."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted; the kernel's `somaxconn` bounds it too."""


def create_app(gateway: Gateway) -> web.Application:
    """Return the application with all routes. Static paths come first: they are looked up."""
    app = web.Application(client_max_size=gateway.settings.max_body_bytes)
    app[GATEWAY] = gateway
    add_health_routes(app, gateway)
    add_model_routes(app, gateway)
    add_inference_routes(app, gateway)
    app.router.add_route(hdrs.METH_ANY, "/{path:.*}", not_found)
    if gateway.settings.cors_allow_origins:
        app.on_response_prepare.append(header_writer(gateway.settings.cors_allow_origins))
    return app


class HttpFront(Front):
    """Listens for HTTP clients."""

    def __init__(self, context: FrontContext, settings: HttpSettings) -> None:
        self._settings = settings
        self._default_drain_s = context.drain_s
        self._gateway = Gateway(
            client=RouterClient(context.channel),
            settings=settings,
            telemetry=context.telemetry,
            clock=context.clock,
            calls=ActiveCalls(),
        )
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        self._unix_path = ""

    async def start(self) -> list[str]:
        """Listen, and return the address as a URL.

        Raises:
            SettingsError: The address is none, or others than this machine could reach it.
            StartupError: It cannot be bound.
        """
        address = ListenAddress.parse(self._settings.listen)
        require_loopback(address)
        # Cancelling the handler when its client leaves is what stops the work behind it.
        runner = web.AppRunner(
            create_app(self._gateway), handler_cancellation=True, shutdown_timeout=CLOSE_TIMEOUT_S
        )
        await runner.setup()
        try:
            self._listener = await self._listen(address, runner)
        except OSError as exc:
            await runner.cleanup()
            raise StartupError(
                f"http.listen: cannot listen at {self._settings.listen}: {exc.strerror or exc}"
            ) from exc
        self._runner = runner
        return [self._url(address)]

    async def _listen(self, address: ListenAddress, runner: web.AppRunner) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {
            "loop": loop,
            "access_log": None,  # 74 µs a request; ended calls are logged by the router
            "keepalive_timeout": self._settings.keepalive_s,
            "lingering_time": LINGER_S,
        }

        def connect() -> Connection:
            if runner.server is None:
                raise RuntimeError("the front has stopped")
            return Connection(runner.server, **options)

        if address.unix:
            self._unix_path = address.unix
            return await loop.create_unix_server(connect, address.unix, backlog=BACKLOG)
        return await loop.create_server(
            connect,
            address.host,
            address.port,
            backlog=BACKLOG,
            reuse_port=self._settings.reuse_port or None,
        )

    def _url(self, address: ListenAddress) -> str:
        if address.unix:
            return f"http+unix://{address.unix}"
        if self._listener is None:
            raise RuntimeError("the front does not listen")
        port = self._listener.sockets[0].getsockname()[1]
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"http://{host}:{port}"

    def configure(self, settings: PluginSettings) -> frozenset[str]:
        """Take what is looked up for each request; the rest was used at the start."""
        new = settings.section(HttpSettings)
        taken = {name: getattr(new, name) for name in RELOADED}
        self._gateway.settings = self._gateway.settings.model_copy(update=taken)
        return frozenset(f"http.{name}" for name in RELOADED)

    @property
    def in_flight_count(self) -> int:
        """Calls in flight now."""
        return self._gateway.calls.count

    async def drain(self) -> None:
        """Refuse new calls, let those in flight end for `drain_s`, then end them with an error."""
        own_s = self._gateway.settings.drain_s
        drain_s = self._default_drain_s if own_s is None else own_s
        await self._gateway.calls.drain(self._gateway.clock, drain_s)

    def end_calls(self) -> None:
        """End all calls in flight with an error."""
        self._gateway.calls.end_all()

    async def stop(self) -> None:
        """Stop listening, let calls in flight end for `drain_s`, then end them with an error."""
        runner, self._runner = self._runner, None
        listener, self._listener = self._listener, None
        if runner is None or listener is None:
            return
        listener.close()
        if runner.server is not None:
            runner.server.pre_shutdown()
        await self.drain()
        await runner.cleanup()
        await listener.wait_closed()
        if self._unix_path:
            _remove(Path(self._unix_path))


def _remove(socket: Path) -> None:
    # asyncio does it itself from Python 3.13 on.
    with contextlib.suppress(FileNotFoundError):
        socket.unlink()
