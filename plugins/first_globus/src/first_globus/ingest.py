"""The listener that functions send the chunks of streams to."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from first_core.errors import SettingsError
from first_core.settings import ListenAddress
from first_globus.streams import LostChunkError

if TYPE_CHECKING:
    from first_globus.settings import StreamingSettings
    from first_globus.streams import Stream, Streams

PREFIX: Final = "/resource_server/api/streaming"
"""Where registered functions send to."""


class _Post(msgspec.Struct):
    task_id: str
    data: str = ""
    error: str = ""
    seq: int | None = None
    groups: int | None = None


_posts = msgspec.json.Decoder(_Post)


class Ingest:
    """Takes the requests of functions, and feeds them to the streams that wait.

    Each needs the shared secret and the credential of its own stream. A stream that nobody waits
    for any more is answered with 404, so that a function which looks at it can stop its work.

    Args:
        settings: Address, secret, bounds.
        streams: What is fed.
    """

    def __init__(self, settings: StreamingSettings, streams: Streams) -> None:
        self._settings = settings
        self._streams = streams
        self._secret = settings.secret.reveal().encode() if settings.secret else b""
        self._runner: web.AppRunner | None = None
        self.port = 0
        """What it listens on."""

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: The address cannot be had.
        """
        address = ListenAddress.parse(self._settings.listen)
        app = web.Application(client_max_size=self._settings.max_post_bytes)
        for kind, take in (("data", self._data), ("error", self._error), ("done", self._done)):
            app.router.add_post(f"{PREFIX}/{kind}/", take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address.host, address.port)
        try:
            await site.start()
        except OSError as exc:
            await self.stop()
            raise SettingsError(
                f"globus.streaming.listen: {self._settings.listen}: {exc.strerror}"
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more; safe to repeat."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _data(self, request: web.Request) -> web.Response:
        stream, post = await self._admit(request)
        try:
            await stream.feed(post.data, number=post.seq)
        except LostChunkError:
            if post.seq is None:  # nobody sends it again
                stream.lose()
            return web.json_response({"error": "not taken"}, status=503)
        return _ok()

    async def _error(self, request: web.Request) -> web.Response:
        stream, post = await self._admit(request)
        stream.fail(post.error)
        return _ok()

    async def _done(self, request: web.Request) -> web.Response:
        stream, post = await self._admit(request)
        stream.done(post.groups)
        return _ok()

    async def _admit(self, request: web.Request) -> tuple[Stream, _Post]:
        given = request.headers.get("x-internal-secret", "").encode()
        if not hmac.compare_digest(given, self._secret):
            raise web.HTTPUnauthorized
        try:
            post = _posts.decode(await request.read())
        except (ValueError, RecursionError) as exc:
            raise web.HTTPBadRequest from exc
        stream = self._streams.find(post.task_id, request.headers.get("x-stream-task-token", ""))
        if stream is None:
            raise web.HTTPNotFound
        return stream, post


def _ok() -> web.Response:
    return web.json_response({"status": "ok"})
