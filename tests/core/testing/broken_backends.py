"""A right backend, and one wrong backend for each rule. Run by `test_contract_kit.py`."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import tempfile
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from first_core.errors import (
    BackendError,
    BackendUnavailableError,
    CapacityError,
    FirstError,
    StreamTruncatedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.plugin import Answer, Backend, Capabilities, EndpointReport
from first_core.plugin.http import HttpUpstream, UpstreamSettings
from first_core.testing import BackendContract
from first_core.types import EndpointId, EndpointState, Operation, Timeouts, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from first_core.plugin import BackendContext, Call, ChunkSink, Publish
    from first_core.testing.simulator import Simulator

MODEL = "sim-model"
LOG = logging.getLogger("broken")


class Reference(Backend):
    """Keeps the contract: looks at one server each second, and sends calls to it."""

    capabilities: ClassVar = Capabilities(follows_state=True)

    def __init__(self, url: str, credential: str, context: BackendContext) -> None:
        self.context = context
        self.credential = credential
        self.http = HttpUpstream(url, settings=UpstreamSettings(), context=context)
        self.id = EndpointId("here", "sim", MODEL)
        self.follower: asyncio.Task[None] | None = None

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.credential}"}

    def reports(self, state: EndpointState) -> list[EndpointReport]:
        return [EndpointReport(self.id, MODEL, frozenset({Operation.CHAT}), state)]

    async def look(self) -> EndpointState:
        try:
            await self.http.get("health", headers={}, timeout_s=1.0, max_bytes=1024)
        except BackendError:
            return EndpointState.DOWN
        return EndpointState.READY

    async def follow(self, publish: Publish) -> None:
        while True:
            publish(self.reports(await self.look()))
            await self.context.clock.sleep(1.0)

    async def start(self, publish: Publish) -> None:
        await self.http.start()
        self.follower = asyncio.create_task(self.follow(publish))

    async def stop(self) -> None:
        if self.follower is not None:
            self.follower.cancel()
            await asyncio.wait({self.follower})
        await self.http.stop()

    def check(self, call: Call) -> None:
        if call.endpoint != self.id:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)

    async def call(self, call: Call) -> Answer:
        self.check(call)
        return await self.http.call(call.operation.path, call, headers=self.headers())

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        self.check(call)
        await self.http.stream(call.operation.path, call, sink, headers=self.headers())


class ReferenceContract(BackendContract):
    follows_state = True
    patience_s = 0.3
    make: Callable[[str, str, BackendContext], Backend] = Reference

    @pytest.fixture
    def backend(self, upstream: Simulator, context: BackendContext) -> Backend:
        return type(self).make(upstream.url, self.credential, context)


class TestReference(ReferenceContract):
    patience_s = 10.0


class Modest(Reference):
    """Can only run whole calls, on an endpoint that it never looks at."""

    capabilities: ClassVar = Capabilities(
        streams=False, cancels_upstream=False, follows_state=False
    )

    async def follow(self, publish: Publish) -> None:
        publish(self.reports(EndpointState.READY))

    async def call(self, call: Call) -> Answer:
        return await asyncio.shield(super().call(call))

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        raise UnsupportedError("streams nothing")


class TestModest(ReferenceContract):
    streams = False
    cancels_upstream = False
    follows_state = False
    patience_s = 10.0
    make = Modest


BROKEN: dict[str, set[str]] = defaultdict(set)
"""Rule to the test classes whose backend breaks it."""


def breaks(*rules: str) -> Callable[[type[Backend]], type[Backend]]:
    """Make a contract class for a wrong backend; it must fail each of `rules`."""

    def enter(backend: type[Backend]) -> type[Backend]:
        name = f"Test{backend.__name__}"
        globals()[name] = type(name, (ReferenceContract,), {"make": backend})
        for rule in rules:
            BROKEN[rule].add(name)
        return backend

    return enter


class Changing(Reference):
    """Changes one thing on the way; the classes below say which."""

    def change_call(self, call: Call) -> Call:
        return call

    def change_answer(self, body: bytes) -> bytes:
        return body

    def change_sink(self, sink: ChunkSink) -> ChunkSink:
        return sink

    def change_error(self, error: FirstError) -> BaseException | None:
        """Return what to raise; `None`: go on as if all were well."""
        return error

    async def call(self, call: Call) -> Answer:
        try:
            answer = await super().call(self.change_call(call))
        except FirstError as exc:
            changed = self.change_error(exc)
            if changed is None:
                return Answer(b"{}", "application/json")
            raise changed from exc
        return Answer(self.change_answer(answer.body), answer.content_type)

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        try:
            await super().stream(self.change_call(call), self.change_sink(sink))
        except FirstError as exc:
            changed = self.change_error(exc)
            if changed is not None:
                raise changed from exc


class Passing:
    """A sink in front of another."""

    def __init__(self, sink: ChunkSink) -> None:
        self.sink = sink

    def start(self, content_type: str) -> None:
        self.sink.start(content_type)

    def write(self, data: bytes) -> bool:
        return self.sink.write(data)

    async def drain(self) -> None:
        await self.sink.drain()


# Bytes


@breaks("test_request_body_arrives_unchanged")
class LosesAByte(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, body=call.body[:-1])


@breaks("test_request_body_arrives_unchanged")
class Reencodes(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, body=json.dumps(json.loads(call.body)).encode())


@breaks("test_unknown_keys_arrive")
class DropsUnknownKeys(Changing):
    def change_call(self, call: Call) -> Call:
        known = {k: v for k, v in json.loads(call.body).items() if "unknown" not in k}
        return replace(call, body=json.dumps(known).encode())


@breaks("test_content_type_of_the_call_arrives")
class SendsJsonAlways(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, content_type="application/json")


@breaks("test_answer_returns_unchanged")
class ReencodesAnswers(Changing):
    def change_answer(self, body: bytes) -> bytes:
        return json.dumps(json.loads(body)).encode()


@breaks("test_answer_in_pieces_returns_unchanged")
class LosesTheLastByte(Changing):
    def change_answer(self, body: bytes) -> bytes:
        return body[:-1]


@breaks("test_stream_returns_unchanged", "test_stream_cut_anywhere_returns_unchanged")
class ReadsText(Changing):
    class Sink(Passing):
        def write(self, data: bytes) -> bool:
            return self.sink.write(data.decode("utf-8", "replace").encode())

    change_sink = Sink  # type: ignore[assignment]


@breaks("test_stream_in_single_bytes_returns_unchanged")
class Reorders(Changing):
    class Sink(Passing):
        held = b""

        def write(self, data: bytes) -> bool:
            held, self.held = self.held, b"" if self.held else data
            return self.sink.write(data + held) if held else False

    change_sink = Sink  # type: ignore[assignment]


class Keeping(Passing):
    def __init__(self, sink: ChunkSink) -> None:
        super().__init__(sink)
        self.kept = b""

    def write(self, data: bytes) -> bool:
        self.kept += data
        return False


@breaks("test_events_do_not_wait_for_each_other")
class WaitsForTheEnd(Reference):
    async def stream(self, call: Call, sink: ChunkSink) -> None:
        keeping = Keeping(sink)
        await super().stream(call, keeping)
        sink.write(keeping.kept)


@breaks("test_sink_is_used_as_it_wants", "test_nothing_is_written_before_drain_returns")
class NeverDrains(Changing):
    class Sink(Passing):
        def write(self, data: bytes) -> bool:
            self.sink.write(data)
            return False

    change_sink = Sink  # type: ignore[assignment]


@breaks("test_nothing_is_written_before_drain_returns")
class DrainsLater(Changing):
    class Sink(Passing):
        def write(self, data: bytes) -> bool:
            if self.sink.write(data):
                self.task = asyncio.ensure_future(self.sink.drain())
            return False

    change_sink = Sink  # type: ignore[assignment]


@breaks("test_sink_is_used_as_it_wants")
class StartsTwice(Changing):
    class Sink(Passing):
        def start(self, content_type: str) -> None:
            self.sink.start(content_type)
            self.sink.start(content_type)

    change_sink = Sink  # type: ignore[assignment]


# Endings


@breaks(
    "test_answer_that_breaks_off_is_an_error",
    "test_what_is_no_answer_is_an_error",
    "test_error_with_status_200_is_an_error",
    "test_stream_must_be_events",
)
class SwallowsFailures(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return None


@breaks("test_answer_that_breaks_off_is_an_error")
class TakesBrokenStreamsForUnavailable(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        truncated = isinstance(error, StreamTruncatedError)
        return BackendUnavailableError("gone") if truncated else error


@breaks("test_only_first_errors_leave", "test_calls_after_stop_fail")
class RaisesOthers(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return RuntimeError("something of my own")


@breaks("test_refused_connection_started_no_work")
class ClaimsWork(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return BackendUnavailableError("gone", work_started=True)


@breaks("test_break_after_sending_may_have_started_work")
class DeniesWork(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return BackendUnavailableError("gone", work_started=False)


# Refusals


@breaks("test_rejection_passes_unchanged")
class Rewords(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        told = error.upstream
        if told is None:
            return error
        body = json.dumps(json.loads(told.body)).encode()
        return UpstreamRejectedError("no", upstream=replace(told, body=body))


@breaks("test_large_error_body_is_left_out")
class PassesLargeErrors(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        told = UpstreamError(400, "application/json", b"x" * 9000)
        return UpstreamRejectedError("no", upstream=told)


@breaks("test_retry_after_is_told", "test_retry_after_may_be_a_date")
class ForgetsRetryAfter(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        error.retry_after_s = None
        return error


@breaks("test_refusal_without_retry_after_invents_none")
class InventsRetryAfter(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        error.retry_after_s = error.retry_after_s or 60.0
        return error


@breaks("test_retry_after_is_told")
class TakesFullForBroken(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return BackendUnavailableError("gone") if isinstance(error, CapacityError) else error


@breaks("test_failure_is_told_without_its_body")
class TakesFailuresForRejections(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return UpstreamRejectedError("no", upstream=UpstreamError(500, "", b""))


@breaks("test_redirect_is_not_followed")
class FollowsRedirects(Reference):
    async def call(self, call: Call) -> Answer:
        try:
            return await super().call(call)
        except BackendUnavailableError:
            await self.http.get("elsewhere", headers={}, timeout_s=1.0, max_bytes=99)
            raise


# Time


@breaks(
    "test_silence_before_the_answer_hits_first_chunk",
    "test_silence_after_the_head_hits_a_bound",
    "test_silence_amid_the_stream_hits_idle",
    "test_total_ends_a_call",
)
class HasNoBounds(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, timeouts=Timeouts(first_chunk_s=None, idle_s=None))


@breaks("test_silence_before_the_answer_hits_first_chunk")
class NamesNoBound(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        error.metadata.clear()
        return error


@breaks("test_silence_amid_the_stream_hits_idle")
class IsImpatient(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, timeouts=Timeouts(first_chunk_s=0.01, idle_s=0.01))


@breaks("test_events_in_time_keep_a_stream_alive", "test_slow_reader_is_not_silence")
class BoundsWholeStreams(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, timeouts=replace(call.timeouts, total_s=call.timeouts.idle_s))


# Callers that leave


@breaks(
    "test_cancelling_before_the_head_reaches_the_upstream",
    "test_cancelling_after_the_head_reaches_the_upstream",
    "test_cancelling_amid_the_stream_reaches_the_upstream",
    "test_cancelling_a_slow_reader_reaches_the_upstream",
)
class Shields(Reference):
    async def call(self, call: Call) -> Answer:
        return await asyncio.shield(super().call(call))

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        await asyncio.shield(super().stream(call, sink))


@breaks("test_cancelling_before_the_head_reaches_the_upstream")
class SwallowsCancelling(Reference):
    async def call(self, call: Call) -> Answer:
        try:
            return await super().call(call)
        except asyncio.CancelledError:
            return Answer(b"{}", "application/json")


@breaks("test_cancelling_before_the_head_reaches_the_upstream")
class IgnoresCancelling(Reference):
    async def call(self, call: Call) -> Answer:
        task = asyncio.ensure_future(super().call(call))
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                continue
        return task.result()


@breaks("test_stale_connection_costs_no_call", "test_calls_after_a_cancelled_one_are_whole")
class KeepsOneConnection(Reference):
    """Speaks HTTP by itself, over one connection for everything."""

    pair: Any = None

    async def call(self, call: Call) -> Answer:
        if self.pair is None:
            host, _, port = re.sub(r".*//|'.*", "", repr(self.http)).partition(":")
            self.pair = await asyncio.open_connection(host, int(port))
        reader, writer = self.pair
        head = f"POST /{call.operation.path} HTTP/1.1\r\nhost: x\r\ncontent-length: "
        writer.write(b"%b%d\r\n\r\n%b" % (head.encode(), len(call.body), call.body))
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.findall(rb"content-length: (\d+)", answer)[0])
            return Answer(await reader.readexactly(length), "application/json")
        except (OSError, asyncio.IncompleteReadError) as exc:
            raise BackendUnavailableError("gone") from exc

    async def stop(self) -> None:
        if self.pair is not None:
            self.pair[1].close()
        await super().stop()


# Many calls


@breaks("test_calls_run_side_by_side")
class Serialises(Reference):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = asyncio.Lock()

    async def call(self, call: Call) -> Answer:
        async with self.lock:
            return await super().call(call)


@breaks("test_calls_never_mix")
class Mixes(Reference):
    async def call(self, call: Call) -> Answer:
        self.current = call
        await asyncio.sleep(0)
        return await super().call(self.current)


@breaks("test_calls_never_mix")
class MixesHeaders(Reference):
    async def call(self, call: Call) -> Answer:
        self.current = call.headers
        await asyncio.sleep(0)
        return await super().call(replace(call, headers=self.current))


@breaks("test_request_is_repeated_once_at_most", "test_nothing_is_repeated_once_an_answer_began")
class Retries(Reference):
    async def call(self, call: Call) -> Answer:
        for _ in range(2):
            try:
                return await super().call(call)
            except FirstError:
                continue
        return await super().call(call)


# Life


@breaks("test_capabilities_are_as_declared")
class DeclaresOtherwise(Reference):
    capabilities: ClassVar = Capabilities(cancels_upstream=False, follows_state=True)


@breaks("test_reports_are_sound")
class PublishesTwice(Reference):
    def reports(self, state: EndpointState) -> list[EndpointReport]:
        return super().reports(state) * 2


@breaks("test_reports_are_sound")
class PublishesItsCredential(Reference):
    def reports(self, state: EndpointState) -> list[EndpointReport]:
        return [replace(report, state_reason=self.credential) for report in super().reports(state)]


@breaks("test_start_does_not_wait_for_the_upstream")
class NeedsItsUpstream(Reference):
    async def start(self, publish: Publish) -> None:
        await super().start(publish)
        await self.http.get("health", headers={}, timeout_s=1.0, max_bytes=99)


@breaks("test_start_and_stop_can_repeat")
class StartsOnce(Reference):
    async def stop(self) -> None:
        await super().stop()
        self.follow = None  # type: ignore[assignment, method-assign]


@breaks("test_stop_is_safe_to_repeat")
class StopsOnce(Reference):
    async def stop(self) -> None:
        if self.follower is None:
            raise RuntimeError("not running")
        await super().stop()
        self.follower = None


@breaks("test_stop_ends_calls_in_flight", "test_stop_ends_streams_in_flight")
class LeavesCallsAlone(Reference):
    async def stop(self) -> None:
        pass


@breaks("test_stop_ends_calls_in_flight")
class CancelsCalls(Reference):
    running: Any = None

    async def call(self, call: Call) -> Answer:
        self.running = asyncio.current_task()
        return await super().call(call)

    async def stop(self) -> None:
        if self.running is not None:
            self.running.cancel()
        await super().stop()


@breaks("test_unknown_endpoint_reaches_nobody")
class HasADefaultEndpoint(Reference):
    def check(self, call: Call) -> None:
        pass


LEAKED: list[Any] = []


@breaks("test_nothing_stays_open")
class LeaksATask(Reference):
    async def start(self, publish: Publish) -> None:
        await super().start(publish)
        LEAKED.append(asyncio.create_task(asyncio.Event().wait()))


@breaks("test_nothing_stays_open")
class LeaksASocket(Reference):
    async def start(self, publish: Publish) -> None:
        await super().start(publish)
        LEAKED.append(socket.socket())


@breaks("test_nothing_stays_open")
class LeaksAFile(Reference):
    async def call(self, call: Call) -> Answer:
        LEAKED.append(tempfile.TemporaryFile())  # noqa: SIM115 - left open on purpose
        return await super().call(call)


@breaks("test_nothing_stays_open")
class LeaksATimer(Reference):
    async def start(self, publish: Publish) -> None:
        await super().start(publish)
        self.tick()

    def tick(self) -> None:
        self.context.clock.call_later(1.0, self.tick)


@breaks("test_nothing_stays_open")
class LeaksAConnection(Reference):
    async def start(self, publish: Publish) -> None:
        await super().start(publish)
        spare = HttpUpstream(
            repr(self.http)[14:-2], settings=UpstreamSettings(keepalive_s=60), context=self.context
        )
        await spare.start()
        await spare.get("health", headers={}, timeout_s=1.0, max_bytes=99)
        LEAKED.append(spare)


# Readers that are behind


@breaks("test_slow_reader_slows_the_upstream")
class BuffersWithoutBound(Reference):
    async def stream(self, call: Call, sink: ChunkSink) -> None:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()

        class Queueing(Passing):
            def write(self, data: bytes) -> bool:
                queue.put_nowait(data)
                return False

        async def pass_on() -> None:
            while (data := await queue.get()) is not None:
                if sink.write(data):
                    await sink.drain()

        writer = asyncio.create_task(pass_on())
        await super().stream(call, Queueing(sink))
        queue.put_nowait(None)
        await writer


# Secrets


@breaks("test_headers_of_the_call_arrive")
class DropsHeaders(Changing):
    def change_call(self, call: Call) -> Call:
        return replace(call, headers={})


@breaks("test_no_other_headers_go_out")
class AddsHeaders(Reference):
    def headers(self) -> dict[str, str]:
        return {**super().headers(), "x-forwarded-for": "10.0.0.1"}


@breaks("test_cookies_are_not_kept")
class KeepsCookies(Reference):
    jar: ClassVar[dict[str, str]] = {}

    async def call(self, call: Call) -> Answer:
        answer = await super().call(call)
        self.jar = {"cookie": "session=1"}
        return answer

    def headers(self) -> dict[str, str]:
        return {**super().headers(), **self.jar}


@breaks("test_credential_reaches_the_upstream")
class ForgetsItsCredential(Reference):
    def headers(self) -> dict[str, str]:
        return {}


@breaks("test_credential_stays_secret")
class ShowsItsCredential(Reference):
    def __repr__(self) -> str:
        return f"Backend({self.headers()})"


@breaks("test_credential_stays_secret")
class LogsItsCredential(Reference):
    def headers(self) -> dict[str, str]:
        headers = super().headers()
        LOG.debug("send", extra={"headers": headers})
        return headers


@breaks("test_credential_stays_secret")
class TellsItsCredential(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return BackendUnavailableError("gone", metadata={"sent": str(self.headers())})


@breaks("test_credential_stays_secret")
class QuotesItsCredential(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        body = f"Incorrect API key: {self.credential}".encode()
        return UpstreamRejectedError("no", upstream=UpstreamError(400, "", body))


@breaks("test_credential_stays_secret")
class RaisesFromItsCredential(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        error.__cause__ = ValueError(self.headers())
        return BackendUnavailableError("gone")


@breaks("test_logs_hold_no_content")
class LogsPrompts(Changing):
    def change_call(self, call: Call) -> Call:
        LOG.debug("send %s", call.body)
        return call


@breaks("test_logs_hold_no_content")
class LogsAnswers(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        LOG.warning("refused: %s", error.message)
        return error


@breaks("test_errors_tell_no_address")
class TellsTheAddress(Changing):
    def change_error(self, error: FirstError) -> BaseException | None:
        return BackendUnavailableError(f"{self.http!r} failed")


# Servers that come and go


@breaks("test_server_that_goes_is_noticed")
class LooksOnce(Reference):
    async def follow(self, publish: Publish) -> None:
        publish(self.reports(await self.look()))


@breaks("test_server_that_returns_is_noticed", "test_server_that_is_late_is_found")
class GivesUp(Reference):
    async def follow(self, publish: Publish) -> None:
        state = EndpointState.READY
        while state is EndpointState.READY:
            state = await self.look()
            publish(self.reports(state))
            await self.context.clock.sleep(1.0)
