"""Hooks of peers, which come with the core."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.errors import SettingsError
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
    """Offer the section `federation`."""
    from first_core.peering.settings import FederationSettings  # noqa: PLC0415 - when asked for

    register("federation", FederationSettings)


@hookimpl
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backend `peer`, where there are peers."""
    from first_core.peering.settings import FederationSettings  # noqa: PLC0415 - when asked for

    try:
        section = settings.section(FederationSettings)
    except SettingsError:
        return  # a router that a test or a tool put together without sections

    def make(context: BackendContext) -> Backend:
        from first_core.peering.backend import PeerBackend  # noqa: PLC0415 - brings gRPC's client

        return PeerBackend(section, context)

    if section.peers:
        register("peer", make)
