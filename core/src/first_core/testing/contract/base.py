"""What all rules stand on: declarations, fixtures, and the check of overrides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import pytest
import pytest_asyncio

from first_core.plugin import BackendContext
from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import Telemetry
from first_core.testing.clock import FakeClock
from first_core.testing.contract.samples import SAMPLES
from first_core.testing.contract.subject import Subject
from first_core.testing.simulator import Simulator
from first_core.types import Operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from first_core.plugin import Backend
    from first_core.testing.contract.samples import Sample
    from first_core.testing.contract.subject import Way

F = TypeVar("F", bound="Callable[..., Any]")

_NEEDS = "_contract_needs"


def needs(capability: str) -> Callable[[F], F]:
    """Mark a rule that holds only for backends which declare `capability`; may stand twice."""

    def mark(rule: F) -> F:
        setattr(rule, _NEEDS, (capability, *getattr(rule, _NEEDS, ())))
        return rule

    return mark


class ContractBase:
    """Declarations and fixtures. Derived classes override them where their backend differs."""

    pytestmark: ClassVar[Any] = [pytest.mark.asyncio]

    streams: ClassVar[bool] = True
    """As in `Capabilities`; what is declared is tested."""
    cancels_upstream: ClassVar[bool] = True
    """As in `Capabilities`."""
    follows_state: ClassVar[bool] = False
    """As in `Capabilities`."""

    operation: ClassVar[Operation] = Operation.CHAT
    """What the backend is asked. The kit knows bodies for chat and message."""
    sample: ClassVar[Sample | None] = None
    """Bodies for another operation; `None`: the kit's own."""
    credential: ClassVar[str] = "contract-credential-5b1f9a"
    """Give it to your backend as the secret for the upstream. Empty: it takes none."""
    own_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})
    """Headers that your backend adds to a call's own, lower case."""
    bound_s: ClassVar[float] = 0.2
    """Bounds of calls that are to run into them, in seconds: at once on the kit's clock."""
    patience_s: ClassVar[float] = 10.0
    """Longest wait for anything, in seconds of the wall clock; a right backend never needs it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith(__package__):
            _check_overrides(cls)

    @pytest.fixture
    def clock(self) -> FakeClock:
        """The backend's time; only rules move it."""
        return FakeClock()

    @pytest.fixture
    def context(self, clock: FakeClock) -> BackendContext:
        """What to make the backend with."""
        telemetry = Telemetry(TelemetrySettings(), LogSettings(), clock)
        return BackendContext(clock=clock, telemetry=telemetry)

    @pytest_asyncio.fixture
    async def upstream(self) -> AsyncIterator[Simulator]:
        """The server that the backend reaches. Override it for other settings."""
        async with Simulator() as simulator:
            yield simulator

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend, not started. Must be overridden."""
        raise NotImplementedError("override the fixture `backend`")

    @pytest_asyncio.fixture
    async def subject(
        self, backend: Backend, upstream: Simulator, clock: FakeClock
    ) -> AsyncIterator[Subject]:
        """The backend, started, with an endpoint that is ready."""
        subject = Subject(
            backend,
            upstream,
            clock,
            operation=self.operation,
            sample=self.sample or SAMPLES[self.operation],
            patience_s=self.patience_s,
        )
        try:
            await subject.start()
            yield subject
        finally:
            await subject.close()

    @pytest.fixture(params=["call", "stream"])
    def way(self, request: pytest.FixtureRequest) -> Way:
        """Each method that runs calls."""
        if request.param == "stream" and not self.streams:
            pytest.skip("does not declare `streams`")
        return cast("Way", request.param)

    @pytest.fixture(autouse=True)
    def _only_declared(self, request: pytest.FixtureRequest) -> None:
        for capability in getattr(request.function, _NEEDS, ()):
            if not getattr(self, capability):
                pytest.skip(f"does not declare `{capability}`")


def _check_overrides(cls: type[ContractBase]) -> None:
    rules = {name for base in cls.__mro__[1:] for name in vars(base) if name.startswith("test_")}
    for name in sorted(rules & vars(cls).keys()):
        if _is_rule(cls, name) and not _reason(vars(cls)[name]):
            raise TypeError(
                f"{cls.__name__}.{name} overrides a rule of the backend contract; "
                "mark it with pytest.mark.xfail(reason=...), which says why it cannot hold"
            )


def _is_rule(cls: type[ContractBase], name: str) -> bool:
    return any(
        name in vars(base) and base.__module__.startswith(__package__) for base in cls.__mro__[1:]
    )


def _reason(override: object) -> str:
    marks = getattr(override, "pytestmark", [])
    reasons = (mark.kwargs.get("reason") for mark in marks if mark.name == "xfail")
    return next((reason for reason in reasons if reason), "")
