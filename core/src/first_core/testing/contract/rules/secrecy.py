"""What goes out, and what must not."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final

import pytest

from first_core.testing.contract.base import ContractBase
from first_core.testing.contract.rules.endings import BREAKS, NO_ANSWERS, break_off, no_answer
from first_core.testing.contract.subject import PROMPT
from first_core.testing.contract.verdict import require
from first_core.testing.contract.wire import whole
from first_core.testing.simulator import ErrorStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from first_core.errors import FirstError
    from first_core.testing.contract.subject import Subject, Way
    from first_core.testing.simulator import Fault

FRAMING_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "transfer-encoding",
        "user-agent",
    }
)
"""Headers that any client sends, and that tell nothing of the caller."""

_ANSWER: Final = "contract-answer-3e7d"


class SecrecyRules(ContractBase):
    """Rules about headers, credentials and logs."""

    async def test_headers_of_the_call_arrive(self, subject: Subject, way: Way) -> None:
        """Each of `Call.headers` reaches the upstream with its value.

        Look at how headers are put together; the call's are allow-listed already.
        """
        headers = {"x-request-id": "contract-1", "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        await subject.ask(way, subject.call(way, headers=headers))
        seen = subject.posts()[-1][1]

        for name, value in headers.items():
            require(seen.get(name) == value, f"{name}: {value} arrived as {seen.get(name)!r}")

    async def test_no_other_headers_go_out(self, subject: Subject, way: Way) -> None:
        """The upstream sees the call's headers, the backend's own, and those of HTTP itself.

        Look for headers that a client library adds; declare in `own_headers` what is meant.
        """
        headers = {"x-request-id": "contract-1"}
        await subject.ask(way, subject.call(way, headers=headers))

        known = headers.keys() | self.own_headers | FRAMING_HEADERS
        others = sorted(subject.posts()[-1][1].keys() - known)
        require(not others, f"the upstream got {others} too")

    async def test_cookies_are_not_kept(self, subject: Subject) -> None:
        """A cookie that the upstream sets for one call is not shown by the next one.

        Look for a client with a cookie jar: callers would share it.
        """
        headers = {"set-cookie": "session=of-another-caller; Path=/"}
        subject.script(whole(subject.sample.answer, headers=headers))
        await subject.ask("call")
        await subject.ask("call")

        require("cookie" not in subject.posts()[-1][1], "the cookie came back")

    async def test_credential_reaches_the_upstream(self, subject: Subject, way: Way) -> None:
        """The upstream gets the backend's credential.

        Look whether your fixture hands `self.credential` to the backend; the rules on secrecy say
        nothing otherwise.
        """
        await subject.ask(way)
        values = subject.posts()[-1][1].values()

        require(any(self.credential in value for value in values), "no header holds it")

    async def test_credential_stays_secret(
        self, subject: Subject, way: Way, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The credential stands in no `repr`, log or error, not even if the upstream quotes it.

        Look at the `repr` of what holds it, at log lines with whole requests in them, and at error
        bodies that are passed on.
        """
        if not self.credential:
            pytest.skip("takes no credential")
        told = await self._told(subject, way, caplog, self.credential)

        for place, text in told:
            require(self.credential not in text, f"the credential stands in {place}")

    async def test_logs_hold_no_content(
        self, subject: Subject, way: Way, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No log line, at any level, holds a prompt or an answer.

        Look for debug output of bodies, and for errors that quote what they could not read.
        """
        told = await self._told(subject, way, caplog, _ANSWER)

        for place, text in told:
            if place.startswith("log"):
                require(PROMPT not in text, f"the prompt stands in {place}: {text}")
                require(_ANSWER not in text, f"the answer stands in {place}: {text}")

    async def test_errors_tell_no_address(self, subject: Subject, way: Way) -> None:
        """Message and metadata of an error, which callers see, tell no address of the upstream.

        Look for messages of a client library that are passed on.
        """
        call = subject.call(way)
        errors = [error async for error in self._errors(subject, way, "quoted")]
        await subject.upstream.pause_listening()
        await subject.settle()
        errors.append(await subject.fail(way, call))

        for error in errors:
            text = f"{error.message} {error.metadata}"
            require(f":{subject.upstream.port}" not in text, f"the address stands in {text!r}")

    async def _told(
        self, subject: Subject, way: Way, caplog: pytest.LogCaptureFixture, quoted: str
    ) -> list[tuple[str, str]]:
        """Let calls fail in all ways there are; return what is told by whom."""
        with caplog.at_level(logging.DEBUG):
            call = subject.call(way)
            await subject.ask(way)
            errors = [error async for error in self._errors(subject, way, quoted)]
            await subject.upstream.pause_listening()
            await subject.settle()
            errors.append(await subject.fail(way, call))
            await subject.stop()
        told = [("repr of the backend", repr(subject.backend)), ("repr of a call", repr(call))]
        for error in errors:
            told += _texts(error)
        for record in caplog.records:
            # asyncio's own lines, in debug mode, are about the loop and not from the backend.
            if not record.name.startswith("asyncio"):
                told.append((f"log of {record.name}", f"{record.getMessage()} {vars(record)}"))
        return told

    async def _errors(self, subject: Subject, way: Way, quoted: str) -> AsyncIterator[FirstError]:
        for fault in _faults(subject, way, quoted):
            subject.arm(fault, times=None)
            yield await subject.fail(way)
            subject.calm()


def _faults(subject: Subject, way: Way, quoted: str) -> Iterator[Fault]:
    body = f'{{"error":{{"message":"it is {quoted}","code":"x"}}}}'
    for status in (400, 401, 403, 404, 429, 500, 503):
        yield ErrorStatus(status=status, body=body.encode())
    for broken in BREAKS:
        yield break_off(subject.sample, way, broken)
    for kind in NO_ANSWERS:
        yield no_answer(kind)


def _texts(error: FirstError) -> Iterator[tuple[str, str]]:
    yield "an error", f"{error!r} {error} {vars(error)}"
    if error.upstream is not None:
        yield "an error body", error.upstream.body.decode("utf-8", "replace")
    # What a log would write of it, causes included.
    yield "the traceback of an error", "".join(traceback.format_exception(error))
