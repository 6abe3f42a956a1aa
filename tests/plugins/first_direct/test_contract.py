"""The backend `direct` keeps the contract, in each dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from first_core.settings import Secret
from first_core.testing import BackendContract
from first_core.types import Operation
from first_direct.backend import DirectBackend
from first_direct.settings import DirectSettings, ModelSettings, ProviderSettings

if TYPE_CHECKING:
    from first_core.plugin import Backend, BackendContext
    from first_core.testing.simulator import Simulator


def make(dialect: str, url: str, context: BackendContext, *, discover: bool) -> DirectBackend:
    provider = ProviderSettings.model_validate(
        {
            "name": "contract",
            "dialect": dialect,
            "base_url": f"{url}/v1",
            "api_keys": [Secret(env="CONTRACT_API_KEY")],
            "models": [] if discover else [ModelSettings(name="m", upstream_name="sim-model")],
            "discover": discover,
        }
    )
    return DirectBackend(DirectSettings(providers=[provider]), context)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTRACT_API_KEY", BackendContract.credential)


class TestOpenAi(BackendContract):
    @pytest.fixture
    def backend(self, upstream: Simulator, context: BackendContext) -> Backend:
        return make("openai", upstream.url, context, discover=False)


class TestOpenAiDiscovered(BackendContract):
    """With `discover`, which looks at the provider again and again."""

    @pytest.fixture
    def backend(self, upstream: Simulator, context: BackendContext) -> Backend:
        return make("openai", upstream.url, context, discover=True)


class TestAnthropic(BackendContract):
    operation = Operation.MESSAGE
    own_headers: ClassVar = frozenset({"x-api-key", "anthropic-version"})

    @pytest.fixture
    def backend(self, upstream: Simulator, context: BackendContext) -> Backend:
        return make("anthropic", upstream.url, context, discover=False)
