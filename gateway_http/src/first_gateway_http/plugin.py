"""Hook implementations; cheap to import, since every `first` command loads it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from first_core.plugin import hookimpl
from first_gateway_http.settings import HttpSettings

if TYPE_CHECKING:
    from first_core.plugin import (
        Front,
        FrontContext,
        FrontRegister,
        PluginSettings,
        SettingsRegister,
    )


@hookimpl
def first_register_settings(register: SettingsRegister) -> None:
    """Offer the section `http`."""
    register("http", HttpSettings)


@hookimpl
def first_register_fronts(register: FrontRegister, settings: PluginSettings) -> None:
    """Offer the front `http`."""
    register("http", partial(_make_front, settings.section(HttpSettings)))


def _make_front(settings: HttpSettings, context: FrontContext) -> Front:
    from first_gateway_http.app import HttpFront  # noqa: PLC0415 - aiohttp loads where it is used

    return HttpFront(context, settings)
