"""A router over scripted backends, reached through each carrier."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from first_core.app import Process, add_built_ins
from first_core.client import connect, connect_link
from first_core.plugin import hookimpl
from first_core.plugin.host import PluginHost
from first_core.settings import CoreSettings, GrpcSettings, LogSettings, Settings
from first_core.testing.scripted import BackendPlugin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from first_core.plugin import Backend

OpenRouter = "Callable[..., AbstractAsyncContextManager[Any]]"


_CONNECT = {"grpc": connect, "link": connect_link}


class Watcher:
    """A plugin that hands each ended call to `watch`."""

    def __init__(self, watch: Callable[[Any], None]) -> None:
        self._watch = watch

    @hookimpl
    def first_on_call_ended(self, record: Any) -> None:
        self._watch(record)


@asynccontextmanager
async def _open(
    carrier: str,
    backends: dict[str, Backend],
    watch: Callable[[Any], None] | None,
    **core: Any,
) -> AsyncIterator[Any]:
    host = PluginHost()
    add_built_ins(host)
    if watch is not None:
        host.add("watcher", Watcher(watch))
    host.add("scripted", BackendPlugin(**backends))
    listen = "127.0.0.1:0" if carrier in _CONNECT else None
    settings = CoreSettings(
        grpc=GrpcSettings(listen=listen), log=LogSettings(level="error"), **core
    )
    process = Process(Settings(settings, {}, None), host, with_fronts=False)
    addresses = await process.start()
    assert process.router is not None
    channel = (
        _CONNECT[carrier](addresses[0].removeprefix("grpc://"))
        if carrier in _CONNECT
        else process.router.channel
    )
    try:
        yield channel
    finally:
        await channel.close()
        await process.stop()


@pytest.fixture(params=["direct", *_CONNECT])
def open_router(request: pytest.FixtureRequest) -> Any:
    """Open a router over the given backends; yields a channel to it."""

    def opener(
        *,
        settings: dict[str, Any] | None = None,
        watch: Callable[[Any], None] | None = None,
        **backends: Backend,
    ) -> Any:
        return _open(request.param, backends, watch, **(settings or {}))

    return opener
