"""Loading plugins, and each hook."""

from __future__ import annotations

from typing import Any

import click
import pytest

from first_core.errors import PluginConflictError, PluginLoadError
from first_core.plugin import PluginSettings, hookimpl
from first_core.plugin.host import PluginHost
from first_core.settings import Section


class Fake(Section):
    """A section."""


class Plugin:
    """Offers one of everything."""

    seen: Any = None

    @hookimpl
    def first_register_settings(self, register: Any) -> None:
        register("fake", Fake)

    @hookimpl
    def first_register_backends(self, register: Any, settings: PluginSettings) -> None:
        register("fake", lambda _context: settings.section(Fake))

    @hookimpl
    def first_register_policies(self, register: Any) -> None:
        register("fake", Fake)

    @hookimpl
    def first_register_fronts(self, register: Any, settings: PluginSettings) -> None:
        register("fake", lambda _context: settings.section(Fake))

    @hookimpl
    def first_register_commands(self, register: Any) -> None:
        register("fake", click.Command("fake"))

    @hookimpl
    def first_on_call_ended(self, record: Any) -> None:
        self.seen = record
        if record == "raise":
            raise RuntimeError(record)


@pytest.fixture
def host() -> PluginHost:
    found = PluginHost()
    found.add("one", Plugin())
    return found


SETTINGS = PluginSettings({"fake": Fake()})


def test_hook_first_register_settings(host: PluginHost) -> None:
    """A plugin offers a section of the settings file."""
    assert host.settings_sections().offers() == {"fake": Fake}


def test_hook_first_register_backends(host: PluginHost) -> None:
    """A plugin offers backends, with its own section at hand."""
    factory = host.backends(SETTINGS).offers()["fake"]

    assert factory(None) == Fake()  # type: ignore[arg-type]


def test_hook_first_register_policies(host: PluginHost) -> None:
    """A plugin offers routing policies."""
    assert host.policies().offers() == {"fake": Fake}


def test_hook_first_register_fronts(host: PluginHost) -> None:
    """A plugin offers fronts, with its own section at hand."""
    factory = host.fronts(SETTINGS).offers()["fake"]

    assert factory(None) == Fake()  # type: ignore[arg-type]


def test_hook_first_register_commands(host: PluginHost) -> None:
    """A plugin offers commands."""
    assert host.commands().offers()["fake"].name == "fake"


def test_hook_first_on_call_ended() -> None:
    """A plugin watches calls end."""
    host, plugin = PluginHost(), Plugin()
    host.add("one", plugin)
    for watcher in host.call_watchers():
        watcher("record")  # type: ignore[arg-type]

    assert plugin.seen == "record"


def test_failing_watcher_never_reaches_the_call(
    host: PluginHost, caplog: pytest.LogCaptureFixture
) -> None:
    """What a watcher raises is logged with the plugin's name."""
    for watcher in host.call_watchers():
        watcher("raise")  # type: ignore[arg-type]

    assert caplog.records[0].plugin == "one"


def test_two_offers_of_one_name_stop_the_start(host: PluginHost) -> None:
    """A kind belongs to one plugin."""
    host.add("two", Plugin())
    with pytest.raises(PluginConflictError, match="backend kind 'fake'"):
        host.backends(SETTINGS)


def test_misspelt_hook_stops_the_start() -> None:
    """A hook that no specification has is found at once."""

    class Misspelt:
        @hookimpl
        def first_register_backend(self) -> None: ...

    with pytest.raises(PluginLoadError, match="first_register_backend"):
        PluginHost().add("bad", Misspelt())


def test_unknown_argument_stops_the_start() -> None:
    """A hook that asks for what is not handed to it is found at once."""

    class Wrong:
        @hookimpl
        def first_register_backends(self, nope: Any) -> None: ...

    with pytest.raises(PluginLoadError, match="nope"):
        PluginHost().add("bad", Wrong())


def test_allow_list_decides_what_loads() -> None:
    """Only listed entry points load, and the host tells name, version and hooks."""
    host = PluginHost(allow=["vllm"])
    host.load()

    assert [info.name for info in host.plugins()] == ["vllm"]
    assert host.plugins()[0].distribution == "first-vllm"
    assert "first_register_backends" in host.plugins()[0].hooks


def test_allow_list_must_name_what_is_there() -> None:
    """A name in the allow-list that is not installed is a fault."""
    with pytest.raises(PluginLoadError, match="nothing-such"):
        PluginHost(allow=["nothing-such"]).load()


def test_section_that_nobody_offered_is_told() -> None:
    """Asking for a section without having offered it is a fault of the plugin."""
    with pytest.raises(Exception, match="no plugin offered"):
        PluginSettings({}).section(Fake)
