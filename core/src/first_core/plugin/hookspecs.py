"""All hooks. pluggy calls them at start only; per call, plain bound methods run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from first_core.plugin.registers import (
        BackendRegister,
        CommandRegister,
        FrontRegister,
        PluginSettings,
        PolicyRegister,
        SettingsRegister,
    )
    from first_core.telemetry import CallRecord

PROJECT: Final = "first"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def first_register_settings(register: SettingsRegister) -> None:
    """Offer a section of the settings file.

    Called once per process, before the settings are read. Must not block or use the network.

    Args:
        register: Takes the section's key and its model, a `first_core.settings.Section`. A key
            that is taken raises `PluginConflictError` and stops the start.
    """


@hookspec
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backends that this plugin brings.

    Called once per process, at start, before the first call. Must not block or use the network:
    connect in `Backend.start`.

    Args:
        register: Takes a kind and a factory. A kind that is taken raises `PluginConflictError`
            and stops the start.
        settings: Hands out validated sections by their model.
    """


@hookspec
def first_register_policies(register: PolicyRegister) -> None:
    """Offer routing policies.

    Called once per process that has a router, at start. Must not block or use the network.

    Args:
        register: Takes a name and a factory, which is called once per model that uses the policy.
            A name that is taken raises `PluginConflictError` and stops the start.
    """


@hookspec
def first_register_fronts(register: FrontRegister, settings: PluginSettings) -> None:
    """Offer the fronts that this plugin brings.

    Called once per process that has a front, at start. Must not block or use the network:
    listen in `Front.start`.

    Args:
        register: Takes a kind and a factory. A kind that is taken raises `PluginConflictError`
            and stops the start.
        settings: Hands out validated sections by their model.
    """


@hookspec
def first_register_commands(register: CommandRegister) -> None:
    """Offer commands for `first`.

    Called once per process of the command line. Must be quick: heavy imports go into the command.

    Args:
        register: Takes a `click.Command`. A name that is taken raises `PluginConflictError`.
    """


@hookspec
def first_on_call_ended(record: CallRecord) -> None:
    """Watch: a call has ended, well or not.

    Called on the event loop after the answer has left, so it must not block. What it raises is
    logged and never reaches the call.

    Args:
        record: What is known of the call; never its prompt, its answer or a credential.
    """
