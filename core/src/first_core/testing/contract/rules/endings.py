"""An answer ends complete or in an error, and the error tells the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import pytest

from first_core.errors import BackendError, BackendUnavailableError, StreamTruncatedError
from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import require
from first_core.testing.contract.wire import STREAM_HEAD, Turns, chunk, head, whole
from first_core.testing.simulator import Garbage, Raw

if TYPE_CHECKING:
    from first_core.errors import FirstError
    from first_core.testing.contract.samples import Sample
    from first_core.testing.contract.subject import Subject, Way
    from first_core.testing.simulator import Fault

Break: TypeAlias = Literal[
    "before_head", "reset_before_head", "inside_head", "before_body", "inside_body",
    "reset_inside_body", "wrong_length", "wrong_framing",
]  # fmt: skip

BREAKS: Final[tuple[Break, ...]] = (
    "before_head",
    "reset_before_head",
    "inside_head",
    "before_body",
    "inside_body",
    "reset_inside_body",
    "wrong_length",
    "wrong_framing",
)
"""Ways to end an answer before it is over."""

NO_ANSWERS: Final = ("not_http", "html", "invalid_json", "empty")
"""What some servers send instead of an answer, with status 200 where they speak HTTP at all."""

_DISGUISED: Final = b'{"error":{"message":"CUDA out of memory","type":"InternalServerError"}}'


class EndingRules(ContractBase):
    """Rules about how calls end."""

    @pytest.mark.parametrize("broken", BREAKS)
    async def test_answer_that_breaks_off_is_an_error(
        self, subject: Subject, way: Way, broken: Break
    ) -> None:
        """An answer that breaks off is never a success.

        `BackendUnavailableError` while nothing has reached the sink, `StreamTruncatedError` after
        that. Look for code that takes the end of the connection for the end of the answer, or
        that keeps what it has got when reading fails.
        """
        sink = RecordingSink()
        subject.arm(break_off(subject.sample, way, broken), times=None)
        error = await subject.fail(way, sink=sink)

        wanted = StreamTruncatedError if sink.pieces else BackendUnavailableError
        require(isinstance(error, wanted), f"{error!r} where {wanted.__name__} is due")

    @pytest.mark.parametrize("kind", NO_ANSWERS)
    async def test_what_is_no_answer_is_an_error(
        self, subject: Subject, way: Way, kind: str
    ) -> None:
        """What is no HTTP, no JSON or nothing at all is `BackendUnavailableError`.

        Look at what is checked of an answer with status 200: proxies and servers that are starting
        send pages with it.
        """
        subject.arm(no_answer(kind), times=None)
        error = await subject.fail(way)

        require(isinstance(error, BackendUnavailableError), f"{error!r} for {kind}")

    async def test_error_with_status_200_is_an_error(self, subject: Subject, way: Way) -> None:
        """An error that comes as a body with status 200 is never an answer.

        Look for the `error` key in bodies, also where a stream was asked for and JSON came.
        """
        subject.script(whole(_DISGUISED))
        error = await subject.fail(way)

        require(isinstance(error, BackendError), f"{error!r} where a BackendError is due")

    @needs("streams")
    async def test_stream_must_be_events(self, subject: Subject) -> None:
        """A whole JSON answer to a call that asked for a stream is an error, and not written.

        Look at the content type before the sink is started.
        """
        sink = RecordingSink()
        subject.script(whole(subject.sample.answer))
        error = await subject.fail("stream", sink=sink)

        require(isinstance(error, BackendUnavailableError), f"{error!r}")
        require(not sink.pieces, "the sink got what is no stream")

    async def test_only_first_errors_leave(self, subject: Subject, way: Way) -> None:
        """Whatever the upstream does, what leaves the backend is a `FirstError`.

        Look for errors of your client library that no table maps, and for bugs that they uncover.
        """
        faults = [break_off(subject.sample, way, broken) for broken in BREAKS]
        faults += [no_answer(kind) for kind in NO_ANSWERS]
        for fault in faults:
            subject.arm(fault, times=None)
            await subject.fail(way)
            subject.calm()

    async def test_refused_connection_started_no_work(self, subject: Subject, way: Way) -> None:
        """A server that refuses the connection gives `BackendUnavailableError`, no work started.

        The router tries elsewhere on that word. Look at `work_started` where connecting fails.
        """
        call = subject.call(way)
        await subject.upstream.pause_listening()
        await subject.settle()
        error = await subject.fail(way, call)

        require(isinstance(error, BackendUnavailableError), f"{error!r}")
        require(not _work_started(error), "`work_started` is true, and nothing was sent")

    async def test_break_after_sending_may_have_started_work(
        self, subject: Subject, way: Way
    ) -> None:
        """A request that went out whole may have started work, even if no answer came.

        Look at `work_started`: false needs certainty.
        """
        subject.arm(break_off(subject.sample, way, "before_head"), times=None)
        error = await subject.fail(way)

        require(_work_started(error), "`work_started` is false, and the request had been sent")


def break_off(sample: Sample, way: Way, broken: Break) -> Fault:
    """Return the fault that ends an answer as `broken` says."""
    start, rest = _started(sample, way)
    scripts: dict[Break, Raw] = {
        "before_head": Raw(script=()),
        "reset_before_head": Raw(script=(), end="reset"),
        "inside_head": Raw(script=(start[:20],)),
        "before_body": Raw(script=(start,)),
        "inside_body": Raw(script=(start, Turns(), rest)),
        "reset_inside_body": Raw(script=(start, Turns(), rest, Turns()), end="reset"),
        "wrong_length": Raw(script=(_too_short(sample, way),)),
        "wrong_framing": Raw(script=(start, Turns(), rest, Turns(), _bad_frame(way))),
    }
    return scripts[broken]


def no_answer(kind: str) -> Fault:
    """Return the fault that sends something else than an answer."""
    if kind == "empty":
        return Raw(script=(whole(b""),), end="keep")
    return Garbage(kind=kind)  # type: ignore[arg-type]


def _started(sample: Sample, way: Way) -> tuple[bytes, bytes]:
    """Return the head of an answer, and the beginning of its body."""
    if way == "stream":
        return STREAM_HEAD, chunk(sample.events[0])
    fields = {"content-type": "application/json", "transfer-encoding": "chunked"}
    return head(200, fields), chunk(sample.answer)


def _too_short(sample: Sample, way: Way) -> bytes:
    if way == "call":
        return whole(sample.answer, length=len(sample.answer) + 1)
    event = sample.events[0]
    return whole(event, content_type="text/event-stream", length=len(event) + 1)


def _bad_frame(way: Way) -> bytes:
    return b"zz no chunk\r\n" if way == "stream" else b"5\r\n{}"


def _work_started(error: FirstError) -> bool:
    return isinstance(error, BackendError) and error.work_started
