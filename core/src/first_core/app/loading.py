"""Loads plugins and settings."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from first_core.settings import load_settings, plugin_allow_list

if TYPE_CHECKING:
    from pathlib import Path

    from first_core.plugin.host import PluginHost
    from first_core.settings import Settings


def load_host(path: Path | None) -> PluginHost:
    """Load the plugins that a settings file allows.

    Raises:
        StartupError: The file cannot be read, or a plugin cannot be loaded.
    """
    from first_core.plugin.host import PluginHost as Host  # noqa: PLC0415

    host = Host(allow=plugin_allow_list(path))
    add_built_ins(host)
    host.load()
    return host


def add_built_ins(host: PluginHost) -> None:
    """Add what comes with the core and uses the same hooks as any plugin."""
    from first_core.peering import plugin as peering  # noqa: PLC0415
    from first_core.policies import plugin as policies  # noqa: PLC0415

    core = metadata.distribution("first-core")
    # Asked in reverse order, so that endpoints behind peers come after our own.
    host.add("peering", peering, distribution=core.name, version=core.version)
    host.add("policies", policies, distribution=core.name, version=core.version)


def read_settings(path: Path | None, host: PluginHost) -> Settings:
    """Read and validate the settings, the plugins' sections included.

    Raises:
        SettingsError: One line per fault.
    """
    return load_settings(path, host.settings_sections().offers())
