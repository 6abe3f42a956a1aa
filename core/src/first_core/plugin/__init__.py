"""Everything that a plugin author may import, besides types, errors, clock and telemetry."""

from __future__ import annotations

from first_core.plugin.active_calls import ActiveCalls
from first_core.plugin.backend import (
    Answer,
    Backend,
    Call,
    Capabilities,
    ChunkSink,
    EndpointReport,
    Publish,
)
from first_core.plugin.front import Front, FrontContext
from first_core.plugin.hookspecs import hookimpl
from first_core.plugin.registers import (
    BackendContext,
    BackendRegister,
    CommandRegister,
    FrontRegister,
    PluginSettings,
    SettingsRegister,
)

__all__ = [
    "ActiveCalls",
    "Answer",
    "Backend",
    "BackendContext",
    "BackendRegister",
    "Call",
    "Capabilities",
    "ChunkSink",
    "CommandRegister",
    "EndpointReport",
    "Front",
    "FrontContext",
    "FrontRegister",
    "PluginSettings",
    "Publish",
    "SettingsRegister",
    "hookimpl",
]
