"""A gateway with the example plugin, as somebody who installed it would have it."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from first_core.app import Process, add_built_ins, read_settings
from first_core.client import RouterClient
from first_core.plugin.host import PluginHost

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def echo(monkeypatch):
    """The module that the example's entry point names."""
    folder = ROOT / "docs/examples/plugin_echo"
    monkeypatch.syspath_prepend(str(folder))
    yield __import__("plugin_echo")
    sys.modules.pop("plugin_echo", None)


@pytest.fixture
def gateway(echo, tmp_path):
    """Start a router with the example in it, and yield a client of it."""

    @asynccontextmanager
    async def start(text="grpc: {listen: null}\n"):
        host = PluginHost(allow=[])
        add_built_ins(host)
        host.add("echo", echo)
        path = tmp_path / "first.yaml"
        path.write_text(text)
        process = Process(read_settings(path, host), host, with_fronts=False)
        await process.start()
        try:
            yield RouterClient(process.router.channel)
        finally:
            await process.stop()

    return start
