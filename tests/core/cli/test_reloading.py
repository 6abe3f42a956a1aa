"""A process that is told to read its settings again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

ALIAS = "routing: {models: [{name: m, aliases: [nick]}]}\n"


@pytest.fixture
def edit(settings):
    """Add lines to the settings file."""

    def add(text):
        path = Path(settings)
        path.write_text(path.read_text() + text)

    return add


async def test_sighup_reads_the_file_again(cli, settings, chat, edit):
    """A new alias is usable after SIGHUP."""
    async with cli.running("serve", "--config", settings) as gateway:
        address = await gateway.address()
        await gateway.wait_told("curl")
        edit(ALIAS)
        gateway.send(signal.SIGHUP)
        await gateway.wait_told("settings_reloaded")
        answer = await chat(address, "nick")

    assert answer["model"] == "m"


async def test_sighup_with_a_bad_file_keeps_what_there_is(cli, settings, chat, edit):
    """The log names place and key, and calls go on."""
    async with cli.running("serve", "--config", settings) as gateway:
        address = await gateway.address()
        await gateway.wait_told("curl")
        edit("log: {level: loud}\n")
        gateway.send(signal.SIGHUP)
        line = await gateway.wait_told("settings_refused")
        answer = await chat(address)

    assert "gateway.yaml:4: log.level: " in line
    assert answer["model"] == "m"


async def test_a_watched_file_is_read_when_it_changes(cli, settings, chat, edit):
    """With `reload.watch` no signal is needed, and the options of the command line stay."""
    edit("reload: {watch: true, watch_interval_s: 0.05}\n")
    args = ("serve", "--config", settings, "--http", "127.0.0.1:0")
    async with cli.running(*args) as gateway:
        address = await gateway.address()
        await gateway.wait_told("curl")
        edit(ALIAS)
        await gateway.wait_told("settings_reloaded")
        answer = await chat(address, "nick")

    assert answer["model"] == "m"
    assert "settings_need_restart" not in gateway.told
