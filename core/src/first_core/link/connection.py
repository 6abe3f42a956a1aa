"""The multiplexer: many calls, in both directions, over one stream of frames."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from first_core.link import frames
from first_core.link.calls import SentCall
from first_core.link.frames import (
    CALL,
    CANCEL,
    CREDIT,
    END,
    GOAWAY,
    HELLO,
    MESSAGE,
    PART,
    PING,
    PONG,
)
from first_core.link.outbox import Outbox
from first_core.link.partials import Partials
from first_core.link.served import ServedCall
from first_core.link.status import EXPIRED, LinkError, Metadata, Status, broken
from first_core.link.waits import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.clock import Clock, TimerHandle
    from first_core.link.options import LinkOptions
    from first_core.link.pipes import Pipe
    from first_core.link.servicers import Servicers
    from first_proto.link.v1 import link_pb2

_log = logging.getLogger(__name__)

LATE_S = 1.0
"""A timer later than this was held up by our own loop, and so was what the peer has sent."""

LAST_WRITE_S = 1.0
"""Longest wait for a peer to take what is being sent when the link ends, or to end it in turn."""

MAX_CREDIT_BYTES = 2**40
"""More credit than this is no honest grant."""


_IN_PARTS = frozenset({CALL, MESSAGE, END})


class LinkStatistics(NamedTuple):
    """What a link has carried, at one moment."""

    sent_call_count: int
    served_call_count: int
    sent_frame_count: int
    sent_batch_count: int
    received_frame_count: int
    received_batch_count: int
    unsent_bytes: int


class Link:
    """One open stream of frames. `run` carries calls until it ends.

    Args:
        pipe: The stream.
        servicers: What the peer may call.
        options: Bounds of this side.
        clock: The time.
        peer: Who is at the other end, for logs and `ServicerContext.peer`.
        admitted: What the server's `admit` returned for the peer.
    """

    def __init__(
        self,
        pipe: Pipe,
        servicers: Servicers,
        options: LinkOptions,
        clock: Clock,
        *,
        peer: str = "",
        admitted: Any = None,
    ) -> None:
        self.options = options
        self.clock = clock
        self.peer = peer
        self.admitted = admitted
        self.peer_limits: link_pb2.Hello = frames.hello_of(options)  # until it tells its own
        self.is_stuck = False
        """Whether the link ended amid a write that the peer did not take."""
        self._pipe = pipe
        self._servicers = servicers
        self._outbox = Outbox(
            pipe.new_batch,
            max_batch_bytes=options.max_batch_bytes,
            max_unsent_bytes=options.max_unsent_bytes,
            max_call_count=options.max_call_count,
        )
        self._sent: dict[int, SentCall] = {}
        self._served: dict[int, ServedCall] = {}
        self.running: set[ServedCall] = set()
        """Calls whose servicer has not come to its end, ended ones included."""
        self._partials = Partials()
        self._last_sent_id = -1 if pipe.dialled else 0
        self._last_served_id = 0
        self._slots: list[asyncio.Future[None]] = []
        self._heard_s = clock.monotonic()
        self._pinged = False
        self._pong_waits = False
        self._timer: TimerHandle | None = None
        self._is_leaving = False
        self._frame_count = 0
        self._batch_count = 0
        loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = loop.create_future()
        self._end: asyncio.Future[LinkError] = loop.create_future()
        self._left = asyncio.Event()
        self._idle = asyncio.Event()
        self._takes: dict[int, Callable[[link_pb2.Frame], None]] = {
            CALL: self._on_call,
            MESSAGE: self._on_message,
            END: self._on_end,
            CANCEL: self._on_cancel,
            CREDIT: self._on_credit,
            PING: self._on_ping,
            PONG: self._on_pong,
            GOAWAY: self._on_goaway,
            PART: self._on_part,
        }

    # Its life.

    async def run(self) -> LinkError:
        """Open the link, carry calls, and return why it ended.

        Cancelling the `asyncio.Task` ends the link.
        """
        loop = asyncio.get_running_loop()
        self._outbox.add(HELLO).hello.CopyFrom(frames.hello_of(self.options))
        self._arm(self.options.hello_timeout_s, self._on_no_hello)
        workers = [loop.create_task(self._read()), loop.create_task(self._write())]
        try:
            end = await asyncio.shield(self._end)
            await self._last_write(workers[1])
            return end
        finally:
            self._ended_by(LinkError(grpc.StatusCode.CANCELLED, "the link was given up"))
            if self._timer is not None:
                self._timer.cancel()
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await self._wait_servicers()

    async def _wait_servicers(self) -> None:
        """Wait for servicers that were cancelled; one that does not heed it is left behind."""
        tasks = [call.task for call in self.running if call.task is not None]
        if tasks:
            wait = asyncio.ensure_future(asyncio.wait(tasks))
            await wait_until([wait], self.clock, self.clock.monotonic() + LAST_WRITE_S)
            wait.cancel()

    async def _last_write(self, writer: asyncio.Task[None]) -> None:
        """Wait for a write that is under way: gRPC cannot end an RPC before it."""
        self._outbox.drop()
        if not self._pipe.dialled:
            deadline = self.clock.monotonic() + LAST_WRITE_S
            await wait_until([writer], self.clock, deadline)
            self.is_stuck = not writer.done()

    async def wait_open(self) -> None:
        """Wait until both sides have said hello.

        Raises:
            LinkError: The link ended before.
        """
        waits: list[asyncio.Future[Any]] = [self._opened, self._end]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if self._end.done():
            raise self._end.result()

    @property
    def is_open(self) -> bool:
        """Whether calls can be made on it."""
        return self._opened.done() and not self._left.is_set()

    async def wait_left(self) -> None:
        """Wait until no more calls can be made on it: one side leaves, or it was lost."""
        await self._left.wait()

    async def wait_ended(self) -> LinkError:
        """Wait until it has ended, and return why."""
        return await asyncio.shield(self._end)

    async def leave(self, grace_s: float | None = None) -> None:
        """Make and take no more calls, let those in flight end, then end the link.

        Args:
            grace_s: How long calls in flight may go on, in seconds; `None`: as long as they need.
        """
        if self._end.done():
            return
        if not self._is_leaving:
            self._is_leaving = True
            self._left.set()
            self._outbox.add(GOAWAY)
        self._check_idle()
        deadline = None if grace_s is None else self.clock.monotonic() + grace_s
        idle = asyncio.ensure_future(self._idle.wait())
        try:
            await wait_until([idle, self._end], self.clock, deadline)
        finally:
            idle.cancel()
        self._outbox.close()
        deadline = self.clock.monotonic() + LAST_WRITE_S
        await wait_until([self._end], self.clock, deadline)
        self._ended_by(LinkError(grpc.StatusCode.UNAVAILABLE, "the link was closed"))

    def _check_idle(self) -> None:
        if self._is_leaving and not self._sent and not self._served and not self._partials.count:
            self._idle.set()

    def _ended_by(self, error: LinkError) -> None:
        if self._end.done():
            return
        self._end.set_result(error)
        self._left.set()
        unsent = self._outbox.unsent_calls()
        sent, self._sent = self._sent, {}
        for call in sent.values():
            call.end(_lost(error, not_started=call.call_id in unsent))
        self._partials = Partials()
        served, self._served = self._served, {}
        for served_call in served.values():
            served_call.stop()
        self._free_slots()
        self._outbox.release()

    async def _read(self) -> None:
        try:
            while (batch := await self._pipe.receive()) is not None:
                self._heard_s = self.clock.monotonic()
                self._pinged = False
                self._batch_count += 1
                for frame in batch:
                    self._frame_count += 1
                    self._take(frame)
                self._outbox.check()
            error = LinkError(grpc.StatusCode.UNAVAILABLE, "the peer closed the link")
        except LinkError as exc:
            error = exc
        except Exception as exc:  # a bug of ours ends the link, not the process
            _log.exception("link_reader_failed")
            error = LinkError(grpc.StatusCode.INTERNAL, f"the link failed: {type(exc).__name__}")
        self._ended_by(error)

    async def _write(self) -> None:
        try:
            await self._outbox.run(self._pipe.send)
            await self._pipe.finish()
            if self._pipe.dialled:
                return  # the peer has yet to read the last frames; its end is the link's
            error = LinkError(grpc.StatusCode.UNAVAILABLE, "the link was closed")
        except LinkError as exc:
            error = exc
        except Exception as exc:  # as above
            _log.exception("link_writer_failed")
            error = LinkError(grpc.StatusCode.INTERNAL, f"the link failed: {type(exc).__name__}")
        self._ended_by(error)

    # Signs of life.

    def _arm(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._timer = self.clock.call_later(delay_s, callback)

    def _on_no_hello(self) -> None:
        self._ended_by(LinkError(grpc.StatusCode.UNAVAILABLE, "the peer said no hello in time"))

    def _watch(self) -> None:
        now_s = self.clock.monotonic()
        silent_s = now_s - self._heard_s
        if silent_s < self.options.ping_after_s:
            self._arm(self.options.ping_after_s - silent_s, self._watch)
            return
        self._pinged = True
        self._outbox.add(PING)
        due_s = now_s + self.options.ping_timeout_s
        self._arm(self.options.ping_timeout_s, lambda: self._on_silence(due_s))

    def _on_silence(self, due_s: float) -> None:
        if not self._pinged or self.clock.monotonic() - due_s > LATE_S:
            self._watch()
            return
        silent_s = self.clock.monotonic() - self._heard_s
        text = f"the peer has been silent for {silent_s:.1f} s"
        self._ended_by(LinkError(grpc.StatusCode.UNAVAILABLE, text))

    # Calls that this side makes.

    async def open(
        self,
        method: str,
        message: bytes,
        metadata: Metadata,
        deadline: float | None,
    ) -> SentCall:
        """Send a call, once the peer has room for it.

        Args:
            method: Full name.
            message: Serialised request.
            metadata: Sent beside it.
            deadline: Reading of the clock at which it ends; `None`: never.

        Returns:
            The call; where the link cannot carry it, one that has ended.
        """
        while (
            self.is_open
            and len(self._sent) >= self.peer_limits.max_call_count
            and self.peer_limits.max_call_count
            and (deadline is None or deadline > self.clock.monotonic())
        ):
            slot: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._slots.append(slot)
            await wait_until([slot], self.clock, deadline)
        refusal = self._refusal(message, metadata, deadline)
        self._last_sent_id += 2
        call = SentCall(self, self._last_sent_id, deadline)
        if refusal is not None:
            call.end(refusal)
            return call
        size = len(method) + sum(len(k) + len(v) for k, v in metadata)
        frame = self._outbox.add(CALL, call.call_id, message, extra_bytes=size)
        frame.method = method
        if metadata:
            frames.put_metadata(frame, metadata)
        if deadline is not None:
            _put_timeout(frame, deadline - self.clock.monotonic())
        self._sent[call.call_id] = call
        return call

    def _refusal(self, message: bytes, metadata: Metadata, deadline: float | None) -> Status | None:
        limits = self.peer_limits
        if not self.is_open:
            return Status(grpc.StatusCode.UNAVAILABLE, "the link has been left", not_started=True)
        if deadline is not None and deadline <= self.clock.monotonic():
            return EXPIRED
        if len(message) > limits.max_message_bytes:
            text = f"Sent message larger than max ({len(message)} vs. {limits.max_message_bytes})"
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, not_started=True)
        if limits.max_call_count == 0:
            return Status(
                grpc.StatusCode.UNIMPLEMENTED, "the peer serves no calls", not_started=True
            )
        if metadata and frames.check_metadata(metadata) > limits.max_metadata_bytes:
            text = f"the metadata is larger than {limits.max_metadata_bytes} bytes"
            return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, not_started=True)
        return None

    def abandon(self, call_id: int) -> None:
        """Tell the peer that nobody waits for a call any more."""
        if self._sent.pop(call_id, None) is not None:
            self._partials.drop(call_id)
            self._outbox.cut_off(call_id)
            self._outbox.add(CANCEL, call_id)
            self._freed()

    def grant(self, call_id: int, credit_bytes: int) -> None:
        """Let the peer send more of an answer."""
        self._outbox.add(CREDIT, call_id).credit_bytes = credit_bytes

    def _freed(self) -> None:
        if self._slots:
            self._free_slots()
        if self._is_leaving:
            self._check_idle()

    def _free_slots(self) -> None:
        slots, self._slots = self._slots, []
        for slot in slots:
            if not slot.done():
                slot.set_result(None)

    # Calls that this side serves.

    @property
    def is_full(self) -> bool:
        """Whether messages of answers shall wait."""
        return self._outbox.is_full

    async def wait_room(self) -> None:
        """Wait until `is_full` may have changed."""
        await self._outbox.wait_room()

    def send_message(self, call_id: int, message: bytes) -> None:
        """Send a message of a streamed answer."""
        self._outbox.add(MESSAGE, call_id, message)

    def is_sending(self, call_id: int) -> bool:
        """Tell whether parts of a message of this call are still to be sent."""
        return self._outbox.is_sending(call_id)

    def send_end(self, call_id: int, status: Status, message: bytes | None) -> None:
        """End a call of the peer."""
        self._served.pop(call_id, None)
        self._outbox.cut_off(call_id)
        size = len(status.details) + sum(len(k) + len(v) for k, v in status.trailing)
        frame = self._outbox.add(END, call_id, message, extra_bytes=size)
        frame.code = status.code.value[0]
        frame.details = status.details
        frame.not_started = status.not_started
        if status.trailing:
            frames.put_metadata(frame, status.trailing)
        if self._is_leaving:
            self._check_idle()

    # What arrives.

    def _take(self, frame: link_pb2.Frame) -> None:
        if self._opened.done():
            take = self._takes.get(frame.kind)
            if take is not None:  # a kind of a newer minor version is passed over
                if frame.more and frame.kind in _IN_PARTS:
                    take = self._on_first_part
                take(frame)
            elif frame.kind == HELLO:
                raise broken("a second hello")
            return
        self.peer_limits = frames.check_hello(frame)
        if self._timer is not None:
            self._timer.cancel()
        self._opened.set_result(None)
        self._watch()

    def _on_first_part(self, frame: link_pb2.Frame) -> None:
        if frame.kind == CALL:
            self._check_new(frame)
            refusal = self._reason_not_to_serve(frame)
            if refusal is not None:
                self.send_end(frame.call_id, refusal, None)
                return
        elif self._call_of(frame) is None:
            return
        self._partials.begin(frame)

    def _on_part(self, frame: link_pb2.Frame) -> None:
        call_id = frame.call_id
        if not self._partials.holds(call_id):  # it crossed an end, or it goes on with nothing
            ours = call_id % 2 == self._last_sent_id % 2
            _ = self._call_of(frame) if ours else self._served_of(frame)
            return
        whole = self._partials.add(frame)
        if self._partials.size(call_id) > self.options.max_message_bytes:
            first = self._partials.drop(call_id)
            whole = None
            self._refuse_large(first)
        if whole is not None and whole.kind == CALL:
            self._serve(whole)
        elif whole is not None:
            self._takes[whole.kind](whole)

    def _refuse_large(self, first: link_pb2.Frame | None) -> None:
        if first is None:
            return
        text = f"Received message larger than max ({self.options.max_message_bytes})"
        status = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text, not_started=first.kind == CALL)
        if first.kind == CALL:
            self.send_end(first.call_id, status, None)
        else:
            self._sent[first.call_id].fail(status)

    def _check_new(self, frame: link_pb2.Frame) -> None:
        call_id = frame.call_id
        if call_id <= self._last_served_id or call_id % 2 == self._last_sent_id % 2:
            raise broken(f"call id {call_id} is not a new one of the peer's")
        self._last_served_id = call_id

    def _on_call(self, frame: link_pb2.Frame) -> None:
        self._check_new(frame)
        self._serve(frame)

    def _serve(self, frame: link_pb2.Frame) -> None:
        call_id = frame.call_id
        refusal = self._reason_not_to_serve(frame)
        if refusal is not None:
            self.send_end(call_id, refusal, None)
            return
        timeout_s = None
        if frame.HasField("timeout"):
            timeout_s = max(0.0, frame.timeout.seconds + frame.timeout.nanos / 1e9)
        metadata = frames.metadata_in(frame) if frame.metadata else ()
        handler = self._servicers.find(frame.method)
        call = ServedCall(self, call_id, handler, metadata, timeout_s)
        self._served[call_id] = call
        self.running.add(call)
        call.start(frame.message)

    def _reason_not_to_serve(self, frame: link_pb2.Frame) -> Status | None:
        options = self.options
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        if self._is_leaving:
            code, text = grpc.StatusCode.UNAVAILABLE, "the link is being left"
        elif len(self._served) + self._partials.count >= options.max_call_count:
            text = f"{options.max_call_count} calls are in flight on this link"
        elif len(frame.message) > options.max_message_bytes:
            size, limit = len(frame.message), options.max_message_bytes
            text = f"Received message larger than max ({size} vs. {limit})"
        elif frames.metadata_size(frame) > options.max_metadata_bytes:
            text = f"the metadata is larger than {options.max_metadata_bytes} bytes"
        elif self._servicers.find(frame.method) is None:
            code, text = grpc.StatusCode.UNIMPLEMENTED, "Method not found!"
        else:
            try:
                frames.metadata_in(frame)
            except ValueError:
                code, text = grpc.StatusCode.INVALID_ARGUMENT, "the metadata is illegal"
            else:
                return None
        return Status(code, text, not_started=True)

    def _call_of(self, frame: link_pb2.Frame) -> SentCall | None:
        call_id = frame.call_id
        call = self._sent.get(call_id)
        if call is None and not (
            0 < call_id <= self._last_sent_id and call_id % 2 == self._last_sent_id % 2
        ):
            raise broken(f"call id {call_id} was never used")
        return call  # None: it crossed a cancel of ours

    def _on_message(self, frame: link_pb2.Frame) -> None:
        call = self._call_of(frame)
        if self._partials.holds(frame.call_id):
            raise broken(f"call id {frame.call_id} has a message under way")
        if call is not None:
            call.on_message(frame.message)

    def _on_end(self, frame: link_pb2.Frame) -> None:
        call = self._call_of(frame)
        if call is not None:
            del self._sent[call.call_id]
            self._partials.drop(call.call_id)
            call.on_end(frame)
            self._freed()

    def _served_of(self, frame: link_pb2.Frame) -> ServedCall | None:
        call_id = frame.call_id
        call = self._served.get(call_id)
        if call is None and not (
            0 < call_id <= self._last_served_id and call_id % 2 != self._last_sent_id % 2
        ):
            raise broken(f"call id {call_id} was never used")
        return call  # None: it crossed an end of ours

    def _on_cancel(self, frame: link_pb2.Frame) -> None:
        call = self._served_of(frame)
        self._outbox.cut_off(frame.call_id)
        self._partials.drop(frame.call_id)
        if call is not None:
            del self._served[call.call_id]
            call.stop()
        self._freed()

    def _on_credit(self, frame: link_pb2.Frame) -> None:
        call = self._served_of(frame)
        if not 0 < frame.credit_bytes <= MAX_CREDIT_BYTES:
            raise broken(f"a credit of {frame.credit_bytes} bytes")
        if call is not None:
            call.on_credit(frame.credit_bytes)

    def _on_ping(self, _frame: link_pb2.Frame) -> None:
        if not self._outbox.holds_pong:
            self._outbox.add(PONG)

    def _on_pong(self, _frame: link_pb2.Frame) -> None:
        """Nothing to do: whatever arrives is a sign of life."""

    def _on_goaway(self, _frame: link_pb2.Frame) -> None:
        self._left.set()
        self._free_slots()

    def statistics(self) -> LinkStatistics:
        """Return what it has carried so far."""
        return LinkStatistics(
            sent_call_count=len(self._sent),
            served_call_count=len(self._served),
            sent_frame_count=self._outbox.frame_count,
            sent_batch_count=self._outbox.batch_count,
            received_frame_count=self._frame_count,
            received_batch_count=self._batch_count,
            unsent_bytes=self._outbox.unsent_bytes,
        )


def _put_timeout(frame: link_pb2.Frame, timeout_s: float) -> None:
    seconds = max(0.0, timeout_s)
    with contextlib.suppress(ValueError, OverflowError):  # a deadline beyond all bounds is none
        frame.timeout.seconds = int(seconds)
        frame.timeout.nanos = int(seconds % 1 * 1e9)


def _lost(error: LinkError, *, not_started: bool) -> Status:
    if not_started:
        return Status(grpc.StatusCode.UNAVAILABLE, f"{error.text}; nothing was started", (), True)
    text = f"{error.text}; work may have started"
    return Status(grpc.StatusCode.UNAVAILABLE, text)
