"""Bodies and events are opaque: what one side sends is what the other side gets."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from first_core.testing.contract.base import ContractBase, needs
from first_core.testing.contract.samples import OPAQUE_STREAM
from first_core.testing.contract.sinks import RecordingSink
from first_core.testing.contract.verdict import require, require_same
from first_core.testing.contract.wire import (
    EVENT_STREAM,
    LAST_CHUNK,
    STREAM_HEAD,
    Turns,
    chunk,
    streamed,
    whole,
)

if TYPE_CHECKING:
    from first_core.testing.contract.subject import Subject, Way


class OpaqueRules(ContractBase):
    """Rules about bytes and their order."""

    async def test_request_body_arrives_unchanged(self, subject: Subject, way: Way) -> None:
        """The upstream receives `Call.body` byte for byte.

        Look at what your backend does to the body: it must not decode and encode it, not even to
        set the model, which is set already.
        """
        body = subject.sample.odd_body(subject.report.served_model, stream=way == "stream")
        self._answer_well(subject, way)
        await subject.ask(way, subject.call(way, body=body))

        require_same(subject.posts()[-1][2], body, "request body")

    async def test_unknown_keys_arrive(self, subject: Subject, way: Way) -> None:
        """Keys that nobody knows reach the upstream, at the top level and below it.

        Look for a typed model of the request: it drops what it does not know.
        """
        body = subject.sample.odd_body(subject.report.served_model, stream=way == "stream")
        self._answer_well(subject, way)
        await subject.ask(way, subject.call(way, body=body))
        sent, seen = json.loads(body), json.loads(subject.posts()[-1][2])

        require(seen.keys() >= sent.keys(), f"lost keys: {sorted(sent.keys() - seen.keys())}")
        require(seen == sent, f"{sent} arrived as {seen}")

    async def test_content_type_of_the_call_arrives(self, subject: Subject) -> None:
        """The upstream receives `Call.content_type` as it is, for example that of a form.

        Look for a constant content type, or for a client library that sets its own.
        """
        content_type = 'multipart/form-data; boundary="a b-1"'
        self._answer_well(subject, "call")
        await subject.ask("call", subject.call("call", content_type=content_type))

        seen = subject.posts()[-1][1].get("content-type")
        require(seen == content_type, f"{content_type!r} arrived as {seen!r}")

    async def test_answer_returns_unchanged(self, subject: Subject) -> None:
        """`Answer` holds the upstream's body byte for byte, and its content type.

        Look for a decoded answer that is encoded anew, or for text decoding.
        """
        content_type = "application/json; charset=utf-8"
        subject.script(whole(subject.sample.answer, content_type=content_type))
        reply = await subject.ask("call")

        require_same(reply.body, subject.sample.answer, "answer")
        require(reply.content_type == content_type, f"content type became {reply.content_type!r}")

    async def test_answer_in_pieces_returns_unchanged(self, subject: Subject) -> None:
        """An answer that comes in many small pieces is put together in order.

        Look at how pieces of a body are collected.
        """
        wire = whole(subject.sample.answer)
        subject.script(*_apart(wire))
        reply = await subject.ask("call")

        require_same(reply.body, subject.sample.answer, "answer")

    @needs("streams")
    async def test_stream_returns_unchanged(self, subject: Subject) -> None:
        """A stream passes as it came: comments, odd line ends, fields, and bytes that are no text.

        Look for a parser of events, or for decoding to text, on the way to the sink.
        """
        subject.script(streamed(OPAQUE_STREAM))
        sink = RecordingSink()
        reply = await subject.ask("stream", sink=sink)

        require_same(reply.body, OPAQUE_STREAM, "stream")
        require(reply.content_type == EVENT_STREAM, f"content type became {reply.content_type!r}")

    @needs("streams")
    async def test_stream_cut_anywhere_returns_unchanged(self, subject: Subject) -> None:
        """Where the network cuts a stream changes nothing, inside characters included.

        Look for code that takes each piece for whole lines, whole events or whole characters.
        """
        sent = b"".join(subject.sample.events)
        for place in range(1, len(sent)):
            first, second = chunk(sent[:place]), chunk(sent[place:])
            subject.script(STREAM_HEAD + first, Turns(2), second + LAST_CHUNK)
            reply = await subject.ask("stream")

            require_same(reply.body, sent, f"stream, cut at byte {place}")

    @needs("streams")
    async def test_stream_in_single_bytes_returns_unchanged(self, subject: Subject) -> None:
        """A stream that comes byte by byte, its framing too, is put together in order.

        Look at how the framing of HTTP is read, and for pieces that overtake each other.
        """
        subject.script(*_apart(streamed(*subject.sample.events)))
        reply = await subject.ask("stream")

        require_same(reply.body, b"".join(subject.sample.events), "stream")

    @needs("streams")
    async def test_events_do_not_wait_for_each_other(self, subject: Subject) -> None:
        """An event reaches the sink while the upstream still works on the next one.

        Look for a buffer between the upstream and the sink that waits to be full, or for the end.
        """
        first, *others = subject.sample.events
        gate = asyncio.Event()
        subject.script(STREAM_HEAD + chunk(first), gate, streamed(*others)[len(STREAM_HEAD) :])
        sink = RecordingSink()
        task = subject.begin("stream", sink=sink)
        await subject.within(sink.wait_for(first), "the first event while the second is due")
        gate.set()
        reply = await subject.reply(task)

        require_same(reply.body, b"".join(subject.sample.events), "stream")

    @needs("streams")
    async def test_sink_is_used_as_it_wants(self, subject: Subject) -> None:
        """`start` comes once and first; after a `write` that returned true comes `drain`.

        Look at the order of calls in `stream`, above all at the return value of `write`.
        """
        sink = RecordingSink(behind=True)
        subject.script(*_apart(streamed(*subject.sample.events), size=40))
        reply = await subject.ask("stream", sink=sink)

        require(not sink.misuses, "; ".join(dict.fromkeys(sink.misuses)))
        require(reply.content_type == EVENT_STREAM, f"`start` was told {reply.content_type!r}")

    def _answer_well(self, subject: Subject, way: Way) -> None:
        sample = subject.sample
        subject.script(streamed(*sample.events) if way == "stream" else whole(sample.answer))


def _apart(data: bytes, *, size: int = 1) -> list[bytes | asyncio.Event]:
    """Return pieces of `data` with a few turns of the loop between them."""
    steps: list[bytes | asyncio.Event] = []
    for place in range(0, len(data), size):
        steps += [data[place : place + size], Turns(2)]
    return steps
