"""All rules together."""

from __future__ import annotations

from first_core.testing.contract.rules.backpressure import BackpressureRules
from first_core.testing.contract.rules.bounds import BoundRules
from first_core.testing.contract.rules.cancelling import CancelRules
from first_core.testing.contract.rules.connections import ConnectionRules
from first_core.testing.contract.rules.endings import EndingRules
from first_core.testing.contract.rules.lifecycle import LifecycleRules
from first_core.testing.contract.rules.opaque import OpaqueRules
from first_core.testing.contract.rules.parallel import ParallelRules
from first_core.testing.contract.rules.refusals import RefusalRules
from first_core.testing.contract.rules.secrecy import SecrecyRules
from first_core.testing.contract.rules.state import StateRules


class BackendContract(
    OpaqueRules,
    EndingRules,
    RefusalRules,
    BoundRules,
    CancelRules,
    ParallelRules,
    ConnectionRules,
    LifecycleRules,
    BackpressureRules,
    SecrecyRules,
    StateRules,
):
    """The contract of `first_core.plugin.Backend`, as tests to inherit.

        class TestMyBackend(BackendContract):
            @pytest.fixture
            def backend(self, upstream: Simulator, context: BackendContext) -> Backend:
                return MyBackend(upstream.url, self.credential, context)

    Override the fixture `backend`, which makes the backend and does not start it; `upstream`,
    `clock` and `context` may be overridden too. Declare capabilities as class attributes.
    A rule that cannot hold is overridden with `pytest.mark.xfail(reason=...)`.
    """
