"""Hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.plugin import hookimpl

if TYPE_CHECKING:
    from first_core.plugin import (
        Backend,
        BackendContext,
        BackendRegister,
        PluginSettings,
        SettingsRegister,
    )


@hookimpl
def first_register_settings(register: SettingsRegister) -> None:
    """Offer the section `globus`."""
    from first_globus.settings import GlobusSettings  # noqa: PLC0415 - loaded when asked for

    register("globus", GlobusSettings)


@hookimpl
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backend `globus`."""
    from first_globus.settings import GlobusSettings  # noqa: PLC0415 - loaded when asked for

    section = settings.section(GlobusSettings)
    if not section.clusters:
        return  # SDK and broker take time and memory; nobody needs them

    def make(context: BackendContext) -> Backend:
        from first_globus.backend import GlobusBackend  # noqa: PLC0415 - brings SDK and broker

        return GlobusBackend(section, context)

    register("globus", make)
