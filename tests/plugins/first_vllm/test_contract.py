"""The backend `vllm` keeps the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from first_core.settings import Secret
from first_core.testing import BackendContract
from first_vllm.backend import VllmBackend
from first_vllm.settings import ServerSettings, VllmSettings

if TYPE_CHECKING:
    from first_core.plugin import Backend, BackendContext
    from first_core.testing.simulator import Simulator


class TestVllmBackend(BackendContract):
    follows_state = True

    @pytest.fixture
    def backend(
        self, upstream: Simulator, context: BackendContext, monkeypatch: pytest.MonkeyPatch
    ) -> Backend:
        monkeypatch.setenv("CONTRACT_API_KEY", self.credential)
        server = ServerSettings(url=upstream.url, api_key=Secret(env="CONTRACT_API_KEY"))
        return VllmBackend(VllmSettings(servers=[server]), context)
