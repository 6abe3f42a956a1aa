"""Servers that come and go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from first_core.testing.contract.base import ContractBase, needs
from first_core.types import EndpointState

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject


class StateRules(ContractBase):
    """Rules about what a backend notices by itself."""

    @needs("follows_state")
    async def test_server_that_goes_is_noticed(self, subject: Subject) -> None:
        """An endpoint whose server is gone is soon no longer published as ready.

        No call is made. Look for a task that looks at the server again and again, on the clock of
        `BackendContext`.
        """
        await subject.upstream.pause_listening()
        await subject.pump(
            lambda: subject.board.ready(subject.operation) is None,
            "the endpoint to be published as not ready",
        )

    @needs("follows_state")
    async def test_server_that_returns_is_noticed(self, subject: Subject) -> None:
        """An endpoint whose server is back is soon published as ready, and answers.

        Look whether a server that is down is looked at again.
        """
        await subject.upstream.pause_listening()
        await subject.pump(
            lambda: subject.board.ready(subject.operation) is None,
            "the endpoint to be published as not ready",
        )
        await subject.upstream.resume_listening()
        await subject.wait_ready()
        await subject.ask("call")

    @needs("follows_state")
    async def test_server_that_is_late_is_found(self, subject: Subject) -> None:
        """A server that comes up after `start` is found.

        Look whether a first look that failed is repeated.
        """
        await subject.stop()
        await subject.upstream.pause_listening()
        await subject.start_only()
        await subject.upstream.resume_listening()
        await subject.pump(
            lambda: any(r.state is EndpointState.READY for r in subject.board.reports),
            "the endpoint to be published as ready",
        )
