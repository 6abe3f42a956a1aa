"""The backend `vllm` keeps the contract with a managed server beside the others.

It stays cold: the kit moves a clock of its own, which real processes do not follow.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from first_core.settings import Secret
from first_core.testing import BackendContract
from first_vllm.backend import VllmBackend
from first_vllm.settings import ServerSettings, VllmSettings

if TYPE_CHECKING:
    from first_core.plugin import Backend, BackendContext
    from first_core.testing.simulator import Simulator

FIRST = str(Path(sys.executable).with_name("first"))


class TestManagedVllmBackend(BackendContract):
    follows_state = True

    @pytest.fixture
    def backend(
        self, upstream: Simulator, context: BackendContext, monkeypatch: pytest.MonkeyPatch
    ) -> Backend:
        monkeypatch.setenv("CONTRACT_API_KEY", self.credential)
        server = ServerSettings(url=upstream.url, api_key=Secret(env="CONTRACT_API_KEY"))
        managed = {
            "model": "managed",
            "command": [FIRST, "sim", "--port", "{port}", "--model", "{model}"],
            "cluster": "own",
        }
        return VllmBackend(VllmSettings(servers=[server], managed=[managed]), context)
