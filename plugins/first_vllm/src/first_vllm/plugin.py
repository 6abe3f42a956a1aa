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
    """Offer the section `vllm`."""
    from first_vllm.settings import VllmSettings  # noqa: PLC0415 - loaded when asked for

    register("vllm", VllmSettings)


@hookimpl
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backend `vllm`."""
    from first_vllm.settings import VllmSettings  # noqa: PLC0415 - loaded when asked for

    section = settings.section(VllmSettings)

    def make(context: BackendContext) -> Backend:
        from first_vllm.backend import VllmBackend  # noqa: PLC0415 - brings the HTTP client

        return VllmBackend(section, context)

    register("vllm", make)
