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
    """Offer the section `direct`."""
    from first_direct.settings import DirectSettings  # noqa: PLC0415 - loaded when asked for

    register("direct", DirectSettings)


@hookimpl
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backend `direct`."""
    from first_direct.settings import DirectSettings  # noqa: PLC0415 - loaded when asked for

    section = settings.section(DirectSettings)

    def make(context: BackendContext) -> Backend:
        from first_direct.backend import DirectBackend  # noqa: PLC0415 - brings the HTTP client

        return DirectBackend(section, context)

    register("direct", make)
