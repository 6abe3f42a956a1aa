"""Finds plugins by entry point and asks each for its offers. The only user of pluggy's manager."""

from __future__ import annotations

import importlib.metadata
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pluggy

from first_core.errors import PluginLoadError
from first_core.plugin import hookspecs
from first_core.plugin.registers import (
    BackendRegister,
    CommandRegister,
    FrontRegister,
    PluginSettings,
    PolicyRegister,
    SettingsRegister,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.telemetry import CallRecord

GROUP: Final = "first.plugins"
"""Entry point group of plugins."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What is known of a loaded plugin."""

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...]


class PluginHost:
    """The loaded plugins, with one typed method per hook.

    Args:
        allow: Names of entry points that may load; `None` means all.
        trace: Whether each hook call is logged at debug level.
    """

    def __init__(self, *, allow: Sequence[str] | None = None, trace: bool = False) -> None:
        self._allow = None if allow is None else frozenset(allow)
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._infos: list[PluginInfo] = []
        if trace:
            self._manager.trace.root.setwriter(lambda text: _log.debug("hook %s", text.rstrip()))
            self._manager.enable_tracing()

    def load(self) -> None:
        """Load all allowed entry points.

        Raises:
            PluginLoadError: One cannot be imported, or misspells a hook.
        """
        found = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda e: e.name)
        missing = (self._allow or frozenset()) - {entry.name for entry in found}
        if missing:
            raise PluginLoadError(
                f"plugins.allow names what is not installed: {', '.join(sorted(missing))}"
            )
        for entry in found:
            if self._allow is None or entry.name in self._allow:
                self._load(entry)
        self._check()

    def _load(self, entry: importlib.metadata.EntryPoint) -> None:
        try:
            module = entry.load()
        except Exception as exc:
            raise PluginLoadError(f"plugin {entry.name!r} ({entry.value}): {exc}") from exc
        distribution = entry.dist
        self.add(
            entry.name,
            module,
            distribution=distribution.name if distribution else "",
            version=distribution.version if distribution else "",
        )

    def add(self, name: str, plugin: object, *, distribution: str = "", version: str = "") -> None:
        """Add one plugin that is already imported.

        Raises:
            PluginLoadError: Its hooks do not fit their specification.
        """
        try:
            self._manager.register(plugin, name)
        except (pluggy.PluginValidationError, ValueError) as exc:
            raise PluginLoadError(f"plugin {name!r}: {exc}") from exc
        callers = self._manager.get_hookcallers(plugin) or []
        hooks = tuple(sorted(caller.name for caller in callers))
        self._infos.append(PluginInfo(name, distribution, version, hooks))
        self._check()

    def _check(self) -> None:
        # Only this finds a misspelt hook.
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as exc:
            raise PluginLoadError(f"plugin {exc.plugin!r}: {exc}") from exc

    def plugins(self) -> list[PluginInfo]:
        """Return what was loaded, in order."""
        return list(self._infos)

    def settings_sections(self) -> SettingsRegister:
        """Ask for sections of the settings file."""
        register = SettingsRegister("settings section")
        self._manager.hook.first_register_settings(register=register)
        return register

    def backends(self, settings: PluginSettings) -> BackendRegister:
        """Ask for backends."""
        register = BackendRegister("backend kind", settings)
        self._manager.hook.first_register_backends(register=register, settings=settings)
        return register

    def policies(self) -> PolicyRegister:
        """Ask for routing policies."""
        register = PolicyRegister("routing policy")
        self._manager.hook.first_register_policies(register=register)
        return register

    def fronts(self, settings: PluginSettings) -> FrontRegister:
        """Ask for fronts."""
        register = FrontRegister("front kind")
        self._manager.hook.first_register_fronts(register=register, settings=settings)
        return register

    def commands(self) -> CommandRegister:
        """Ask for commands."""
        register = CommandRegister("command")
        self._manager.hook.first_register_commands(register=register)
        return register

    def call_watchers(self) -> list[CallWatcher]:
        """Return each plugin's watcher of ended calls, once: pluggy stays off the path."""
        caller = self._manager.hook.first_on_call_ended
        return [
            CallWatcher(impl.plugin_name, impl.function)
            for impl in caller.get_hookimpls()
            if impl.argnames  # one that takes no record cannot watch
        ]


class CallWatcher:
    """One plugin's `first_on_call_ended`, with its failures kept from the call."""

    def __init__(self, plugin_name: str, function: object) -> None:
        self._plugin_name = plugin_name
        self._function = function

    def __call__(self, record: CallRecord) -> None:
        """Hand the record to the plugin; a failure is logged."""
        try:
            self._function(record)  # type: ignore[operator]
        except Exception:  # an edge: a watcher never reaches the call
            _log.exception("call_watcher_failed", extra={"plugin": self._plugin_name})


__all__ = ["GROUP", "CallWatcher", "PluginHost", "PluginInfo"]
