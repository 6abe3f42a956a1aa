"""The backend: follows the state of Globus Compute endpoints, and runs calls there as tasks."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, ClassVar, Final
from uuid import uuid4

from first_core.errors import BackendError, BackendUnavailableError
from first_core.plugin import Backend, Capabilities, EndpointReport
from first_core.plugin.watchdog import Watchdog
from first_core.types import EndpointId, EndpointState
from first_globus.broker import ResultConsumer
from first_globus.ingest import Ingest
from first_globus.rate import RateLimit
from first_globus.service import ComputeService, ServiceError
from first_globus.streams import Streams
from first_globus.tasks import Lane, Results
from first_globus.upstream import TaskUpstream

if TYPE_CHECKING:
    from first_core.clock import TimerHandle
    from first_core.plugin import Answer, BackendContext, Call, ChunkSink, Publish
    from first_globus.settings import ClusterSettings, GlobusSettings

START_WAIT_S: Final = 2.0
"""Longest wait of `start` for the first look, in seconds."""

QUIET_S: Final = 5.0
"""Shortest time between two looks that failed calls cause, in seconds: each costs a request."""

_log = logging.getLogger(__name__)


class GlobusBackend(Backend):
    """Reaches clusters through Globus Compute, one task per call.

    Args:
        settings: The section `globus`.
        context: The time, and where to tell what happens.
    """

    # The service has no way to cancel a task; see docs/how-to/globus-compute.md.
    capabilities: ClassVar = Capabilities(cancels_upstream=False, follows_state=True)

    def __init__(self, settings: GlobusSettings, context: BackendContext) -> None:
        self._settings = settings
        self._clock = context.clock
        self._watchdog = Watchdog(context.clock)
        self._service: ComputeService | None = None
        self._ingest: Ingest | None = None
        self._consumer: ResultConsumer | None = None
        self._rate: RateLimit | None = None
        self._lanes: dict[str, Lane] = {}
        self._upstreams: dict[EndpointId, TaskUpstream] = {}
        self._states: dict[str, tuple[EndpointState, str]] = {}
        self._follower: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._looked = asyncio.Event()
        self._quiet_until_s = 0.0
        self._publish: Publish | None = None
        self._published: list[EndpointReport] = []
        self._calls: set[asyncio.Task[object]] = set()

    async def start(self, publish: Publish) -> None:
        """Begin to follow the endpoints, and to listen for streams."""
        settings = self._settings
        self._publish, self._published = publish, []
        if not settings.clusters:
            publish([])
            return
        streams = Streams(max_waiting_bytes=settings.streaming.max_waiting_bytes, clock=self._clock)
        if settings.streaming.secret is not None:
            self._ingest = Ingest(settings.streaming, streams)
            await self._ingest.start()
        self._connect(streams)
        self._states = dict.fromkeys(self._lanes, (EndpointState.DOWN, "not seen yet"))
        self._looked.clear()
        self._follower = asyncio.create_task(self._follow())
        await self._wait_first_look()

    def _connect(self, streams: Streams) -> None:
        settings = self._settings
        service = self._service = ComputeService(settings)
        rate = self._rate = RateLimit(
            settings.rate, client_id=settings.client_id, clock=self._clock
        )
        results, group = Results(), str(uuid4())
        self._consumer = ResultConsumer(
            service, rate=rate, results=results, group=group, clock=self._clock
        )
        for endpoint in {str(cluster.endpoint_uuid) for cluster in settings.clusters}:
            self._lanes[endpoint] = Lane(
                endpoint,
                service=service,
                rate=rate,
                results=results,
                group=group,
                max_request_bytes=settings.max_request_bytes,
                submitted=self._consumer.ensure,
            )
        for cluster in settings.clusters:
            upstream = TaskUpstream(
                cluster,
                lane=self._lanes[str(cluster.endpoint_uuid)],
                results=results,
                streams=streams,
                ingest=self._ingest,
                streaming=settings.streaming,
                watchdog=self._watchdog,
                clock=self._clock,
            )
            self._upstreams.update((id_, upstream) for id_ in _ids(cluster))

    async def _wait_first_look(self) -> None:
        timer = self._clock.call_later(START_WAIT_S, self._looked.set)
        try:
            await self._looked.wait()
        finally:
            timer.cancel()
        self._changed()

    async def stop(self) -> None:
        """Stop following, end what is in flight, and close all connections."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.gather(follower, return_exceptions=True)
        calls, self._calls = self._calls, set()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        lanes, self._lanes, self._upstreams = self._lanes, {}, {}
        for lane in lanes.values():
            await lane.stop()
        await self._stop_connections()

    async def _stop_connections(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
        ingest, self._ingest = self._ingest, None
        if ingest is not None:
            await ingest.stop()
        service, self._service = self._service, None
        if service is not None:
            service.stop()

    async def call(self, call: Call) -> Answer:
        """Run one call as a task."""
        upstream = self._upstream_of(call)
        work = asyncio.create_task(upstream.call(call))
        await self._finish(work)
        return work.result()

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call as a task, and write what its function sends into `sink`."""
        upstream = self._upstream_of(call)
        await self._finish(asyncio.create_task(upstream.stream(call, sink)))

    async def _finish(self, work: asyncio.Task[object]) -> None:
        # A task of its own, which `stop` can end without ending the caller.
        self._calls.add(work)
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            raise
        finally:
            self._calls.discard(work)
        if work.cancelled():
            raise BackendUnavailableError("the gateway is shutting down")
        try:
            work.result()
        except BackendError:
            self._poke()
            raise

    def _upstream_of(self, call: Call) -> TaskUpstream:
        upstream = self._upstreams.get(call.endpoint)
        if upstream is None:
            raise BackendUnavailableError("the endpoint is gone", work_started=False)
        return upstream

    # State, refreshed behind

    def _poke(self) -> None:
        """Look soon: a call met something odd."""
        if self._clock.monotonic() >= self._quiet_until_s:
            self._quiet_until_s = self._clock.monotonic() + QUIET_S
            self._wake.set()

    async def _follow(self) -> None:
        while True:
            for endpoint in list(self._states):
                await self._look(endpoint)
            self._looked.set()
            self._changed()
            await self._pause()

    async def _pause(self) -> None:
        self._wake.clear()
        delay_s = self._settings.refresh_interval_s * random.uniform(0.8, 1.0)  # noqa: S311
        timer: TimerHandle = self._clock.call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()

    async def _look(self, endpoint: str) -> None:
        service, rate = self._service, self._rate
        if service is None or rate is None:
            return
        try:
            await rate.take()
            status = await service.status(endpoint)
        except ServiceError as exc:
            self._keep(endpoint, exc)
            return
        except Exception:
            _log.exception("look at a Globus Compute endpoint failed", extra={"endpoint": endpoint})
            return
        is_online = status == "online"
        # Online says that the endpoint's agent lives, not that a model is loaded.
        self._states[endpoint] = (
            (EndpointState.READY, "") if is_online else (EndpointState.DOWN, "endpoint is offline")
        )

    def _keep(self, endpoint: str, error: ServiceError) -> None:
        """Keep the last known state where the service fails; tasks may still get through."""
        _log.warning(
            "Globus Compute does not tell the state of an endpoint",
            extra={"endpoint": endpoint, "reason": str(error)},
        )
        state, _ = self._states[endpoint]
        if error.status in {401, 403, 404} or state is EndpointState.DOWN:
            self._states[endpoint] = (EndpointState.DOWN, str(error))

    def _changed(self) -> None:
        reports = [
            report for cluster in self._settings.clusters for report in self._reports(cluster)
        ]
        if self._publish is not None and reports != self._published:
            self._published = reports
            self._publish(reports)

    def _reports(self, cluster: ClusterSettings) -> list[EndpointReport]:
        state, reason = self._states[str(cluster.endpoint_uuid)]
        return [
            EndpointReport(
                id=id_,
                served_model=id_.model,
                operations=frozenset(cluster.operations),
                state=state,
                state_reason=reason,
            )
            for id_ in _ids(cluster)
        ]


def _ids(cluster: ClusterSettings) -> list[EndpointId]:
    return [
        EndpointId(cluster.name, cluster.framework, model, cluster.replica)
        for model in cluster.models
    ]
