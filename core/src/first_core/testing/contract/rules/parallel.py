"""Calls run side by side and never mix."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

from first_core.testing.contract.base import ContractBase
from first_core.testing.contract.verdict import require
from first_core.testing.simulator import StallBeforeHead

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject, Way

CALL_COUNT: Final = 64
"""Calls at the same time; enough to share and reuse connections in any pool."""

_ID: Final = re.compile(rb"contract-call-\d{4}")


class ParallelRules(ContractBase):
    """Rules about many calls at a time."""

    async def test_calls_run_side_by_side(self, subject: Subject, way: Way) -> None:
        """Calls do not wait for each other: 64 are at the upstream at the same time.

        Look for a lock around a connection, a pool with a small limit, or code that blocks.
        """
        gate = asyncio.Event()
        subject.arm(StallBeforeHead(gate=gate), times=CALL_COUNT)
        tasks = [subject.begin(way) for _ in range(CALL_COUNT)]
        await subject.within(
            subject.upstream.wait_running(CALL_COUNT),
            f"{CALL_COUNT} calls at the upstream at the same time",
        )
        gate.set()
        for task in tasks:
            await subject.reply(task)

    async def test_calls_never_mix(self, subject: Subject) -> None:
        """Each of 64 calls at the same time, half of them streamed, gets its own answer.

        Twice, so that connections are used again. Look for state that calls share: a buffer, a
        parser, a header, a connection that serves the next call before the last one has ended.
        """
        ways: tuple[Way, ...] = ("call", "stream") if self.streams else ("call",)
        for _ in range(2):
            sent = {
                f"contract-call-{number:04}".encode(): ways[number % len(ways)]
                for number in range(CALL_COUNT)
            }
            tasks = [
                subject.begin(
                    way,
                    subject.call(way, prompt=call_id.decode(), headers=_headers(call_id)),
                )
                for call_id, way in sent.items()
            ]
            answers = [await subject.reply(task) for task in tasks]

            for call_id, reply in zip(sent, answers, strict=True):
                found = set(_ID.findall(reply.body))
                require(found == {call_id}, f"the answer to {call_id!r} is that of {found}")
            for _, headers, body in subject.posts():
                own = headers.get("x-request-id", "").encode()
                require(set(_ID.findall(body)) == {own}, f"header {own!r} came with {body!r}")


def _headers(call_id: bytes) -> dict[str, str]:
    # The simulator names its answer after this header.
    return {"x-request-id": call_id.decode()}
