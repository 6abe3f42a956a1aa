"""Adds the dependency on first-proto: by version in a release, by path in a checkout.

`pip install ./core` must work in a clone although first-proto is on no index yet, and
a published wheel must not carry a file URL. Setting FIRST_RELEASE=1 builds for publishing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ProtoDependencyHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        proto = Path(self.root).parent / "proto"
        in_checkout = (proto / "pyproject.toml").is_file()
        if in_checkout and not os.environ.get("FIRST_RELEASE"):
            requirement = f"first-proto @ {proto.as_uri()}"
        else:
            requirement = f"first-proto=={metadata['version']}"
        metadata["dependencies"] = [*self.config["dependencies"], requirement]
