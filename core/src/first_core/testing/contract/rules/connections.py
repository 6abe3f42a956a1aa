"""Connections that are kept: an upstream may close one at any time while it is idle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from first_core.errors import BackendUnavailableError
from first_core.testing.contract.base import ContractBase
from first_core.testing.contract.verdict import require
from first_core.testing.contract.wire import STREAM_HEAD, chunk, whole
from first_core.testing.simulator import Raw

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject, Way


class ConnectionRules(ContractBase):
    """Rules about stale connections and repeats."""

    @pytest.mark.parametrize("end", ["close", "reset"])
    async def test_stale_connection_costs_no_call(
        self, subject: Subject, way: Way, end: Literal["close", "reset"]
    ) -> None:
        """A kept connection that the upstream has closed is replaced, and nobody notices.

        Look for a pool that gives out a connection without a second try on a new one.
        """
        await subject.ask(way)
        if subject.upstream.connection_count == 0:
            return  # it keeps none
        subject.arm(Raw(script=(), end=end))
        await subject.ask(way)

    async def test_request_is_repeated_once_at_most(self, subject: Subject, way: Way) -> None:
        """A connection that ends without an answer leads to one repeat at most, then to an error.

        The router decides what comes next. Look for retries of your client library.
        """
        await subject.ask(way)
        before = len(subject.posts())
        subject.arm(Raw(script=()), times=None)
        error = await subject.fail(way)
        tries = len(subject.posts()) - before

        require(isinstance(error, BackendUnavailableError), f"{error!r}")
        require(tries <= 2, f"the upstream got the request {tries} times")  # noqa: PLR2004

    async def test_nothing_is_repeated_once_an_answer_began(
        self, subject: Subject, way: Way
    ) -> None:
        """A request whose answer has begun is never sent again, nor one that was refused.

        Look for retries that ask only what went wrong, and not when.
        """
        await subject.ask(way)
        event = subject.sample.events[0]
        begun = (
            STREAM_HEAD + chunk(event)
            if way == "stream"
            else whole(subject.sample.answer, length=len(subject.sample.answer) + 1)
        )
        for script in ((begun,), (whole(b"{}", status=503),), (whole(b"{}", status=500),)):
            before = len(subject.posts())
            subject.arm(Raw(script=script), times=None)
            await subject.fail(way)
            subject.calm()
            tries = len(subject.posts()) - before

            require(tries == 1, f"the upstream got the request {tries} times after {script}")
