"""Composition root: builds and wires a process, decides nothing about calls."""

from __future__ import annotations

from first_core.app.loading import add_built_ins, load_host, read_settings
from first_core.app.process import Process
from first_core.app.router import Router

__all__ = ["Process", "Router", "add_built_ins", "load_host", "read_settings"]
