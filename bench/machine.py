"""The machine and the versions that the figures belong to; no names, no paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PACKAGES: Final = (
    "first-core",
    "uvloop",
    "httptools",
    "aiohttp",
    "grpcio",
    "protobuf",
    "msgspec",
    "pydantic",
    "opentelemetry-sdk",
    "prometheus-client",
)


def describe(nginx: str | None) -> dict[str, str]:
    """Fact to text."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    release = platform.release().partition("-")[0]  # what follows may name the builder
    facts = {
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / 1024**2:.1f} GiB" if memory else "unknown",
        "kernel": f"{platform.system()} {release} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}, "
        + _build_flags(),
    }
    for package in PACKAGES:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = "not installed"
    if nginx is not None:
        said = subprocess.run([nginx, "-v"], capture_output=True, text=True, check=False).stderr
        facts["nginx"] = said.rpartition("nginx/")[2].strip() or "unknown"
    return facts


def _cpu_model() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()


def _build_flags() -> str:
    """What makes an interpreter fast or slow; the rest of the configure line holds paths."""
    arguments = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    flags = {
        "PGO": "--enable-optimizations" in arguments,
        "LTO": "--with-lto" in arguments,
        "shared library": "--enable-shared" in arguments,
    }
    return ", ".join(name if on else f"no {name}" for name, on in flags.items())


def markdown(facts: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in facts.items()) + "."
