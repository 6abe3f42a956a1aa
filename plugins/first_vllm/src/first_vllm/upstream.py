"""What a vLLM server tells about itself, and the way to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.errors import BackendError
from first_core.plugin.http import HttpUpstream
from first_core.types import OPERATION_PATHS, EndpointLoad, Operation

if TYPE_CHECKING:
    from first_core.plugin import Answer, BackendContext, Call, ChunkSink
    from first_core.plugin.http import Response
    from first_core.plugin.watchdog import Watchdog
    from first_vllm.settings import ServerSettings

_MAX_PROBE_BYTES: Final = 8 * 1024 * 1024
"""Largest answer to a look. `/metrics` of a server with many adapters has about 1 MB."""

SLEEP_TIMEOUT_S: Final = 120.0
"""Longest wait for an engine that falls asleep or wakes up, in seconds. Weights travel between GPU
and memory at some 10 GB/s, so that the largest that fit a node take half a minute."""

_SAMPLE: Final = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)"
    rb"(?:\{.*\})?[ \t]+([^ \t\r\n]+)",
    re.MULTILINE,
)
"""Gauges of `/metrics`, in the Prometheus text format. Source: vLLM documentation, "Production
Metrics"; `gpu_cache_usage_perc` is the name before V1's `kv_cache_usage_perc`. Both are ratios."""

_NOT_FOUND: Final = frozenset({404, 405, 501})


class ProbeError(Exception):
    """A look at the server tells that it cannot serve; the message is for a person."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of a server's list of models."""

    name: str
    owner: str
    context_window_token_count: int
    """0: not told."""


class _Model(msgspec.Struct):
    id: str
    owned_by: Any = None
    max_model_len: Any = None
    parent: Any = None


class _ModelList(msgspec.Struct):
    data: list[_Model]


class _OpenApi(msgspec.Struct):
    paths: dict[str, msgspec.Raw]


class VllmUpstream:
    """One server.

    Args:
        settings: Of the server.
        context: What the backend got.
        watchdog: Shared by the backend's servers.
    """

    def __init__(
        self, settings: ServerSettings, context: BackendContext, watchdog: Watchdog
    ) -> None:
        self._http = HttpUpstream(
            settings.url, settings=settings.upstream, context=context, watchdog=watchdog
        )
        key = settings.api_key
        self._headers = {"authorization": f"Bearer {key.reveal()}"} if key else {}
        self._timeout_s = settings.probe_timeout_s

    async def start(self) -> None:
        """Make ready to send."""
        await self._http.start()

    async def stop(self) -> None:
        """Close all connections; safe to repeat."""
        await self._http.stop()

    async def call(self, call: Call) -> Answer:
        """Run one call; raises as `Backend.call`."""
        return await self._http.call(call.operation.path, call, headers=self._headers)

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink`; raises as `Backend.stream`."""
        await self._http.stream(call.operation.path, call, sink, headers=self._headers)

    async def check_health(self) -> None:
        """Ask whether the engine lives. A server without that route counts as healthy.

        Raises:
            ProbeError: It does not.
            BackendError: No answer.
        """
        response = await self._get("health")
        if response.status not in _NOT_FOUND:
            _require_ok(response, "health check")

    async def models(self) -> list[ServedModel]:
        """Return what is served now, adapters included.

        Raises:
            ProbeError: The server does not tell.
            BackendError: No answer.
        """
        response = await self._get("v1/models")
        _require_ok(response, "list of models")
        return parse_models(response.body)

    async def operations(self) -> frozenset[Operation] | None:
        """Return the operations that the server has routes for; `None`: it does not tell."""
        try:
            response = await self._get("openapi.json")
        except BackendError:
            return None
        return parse_operations(response.body) if response.status == 200 else None  # noqa: PLR2004

    async def load(self) -> EndpointLoad | None:
        """Return how busy the engine is; `None`: it does not tell."""
        try:
            response = await self._get("metrics")
        except BackendError:
            return None
        return parse_load(response.body) if response.status == 200 else None  # noqa: PLR2004

    async def sleep(self) -> bool:
        """Have the engine free its memory; `False`: the server does not offer that.

        Raises:
            ProbeError: It failed.
            BackendError: No answer.
        """
        if (await self._get("is_sleeping")).status in _NOT_FOUND:
            return False
        _require_ok(await self._post("sleep?level=1"), "sleep")
        return True

    async def wake_up(self) -> None:
        """Have the engine take its memory again; returns when it is awake.

        Raises:
            ProbeError: It failed, or sleeps on.
            BackendError: No answer.
        """
        _require_ok(await self._post("wake_up"), "wake-up")
        response = await self._get("is_sleeping")
        _require_ok(response, "look whether it sleeps")
        if b"true" in response.body:
            raise ProbeError("it did not wake up")

    async def _post(self, path: str) -> Response:
        return await self._http.post(
            path, headers=self._headers, timeout_s=SLEEP_TIMEOUT_S, max_bytes=_MAX_PROBE_BYTES
        )

    async def _get(self, path: str) -> Response:
        return await self._http.get(
            path, headers=self._headers, timeout_s=self._timeout_s, max_bytes=_MAX_PROBE_BYTES
        )


def _require_ok(response: Response, what: str) -> None:
    if response.status in {401, 403}:
        raise ProbeError("refuses the gateway's credential")
    if response.status != 200:  # noqa: PLR2004 - OK
        raise ProbeError(f"{what} failed (HTTP {response.status})")


def parse_models(body: bytes) -> list[ServedModel]:
    """Return the models in the body of `GET /v1/models`; an adapter has its parent's window.

    Raises:
        ProbeError: It is no such body.
    """
    try:
        entries = msgspec.json.decode(body, type=_ModelList).data
    except (ValueError, RecursionError) as exc:
        raise ProbeError("list of models is not readable") from exc
    windows = {entry.id: _positive(entry.max_model_len) for entry in entries}
    return [
        ServedModel(
            name=entry.id,
            owner=entry.owned_by if isinstance(entry.owned_by, str) else "",
            context_window_token_count=windows[entry.id] or _window_of(entry.parent, windows),
        )
        for entry in entries
        if entry.id
    ]


def _window_of(parent: object, windows: dict[str, int]) -> int:
    return windows.get(parent, 0) if isinstance(parent, str) else 0


def _positive(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def parse_operations(body: bytes) -> frozenset[Operation] | None:
    """Return the operations whose paths an OpenAPI document lists; `None` where it has none."""
    try:
        paths = msgspec.json.decode(body, type=_OpenApi).paths
    except (ValueError, RecursionError):
        return None
    found = (op for op, path in OPERATION_PATHS.items() if f"/{path}" in paths)
    return frozenset(found) or None


def parse_load(body: bytes) -> EndpointLoad | None:
    """Return the load in Prometheus text, summed over engines; `None` where there is none.

    The cache's usage is that of the fullest engine.
    """
    values: dict[bytes, list[float]] = {}
    for name, text in _SAMPLE.findall(body):
        try:
            value = float(text)
        except ValueError:
            continue
        if 0 <= value < 1e9:  # noqa: PLR2004 - neither NaN nor infinite, and an int fits
            values.setdefault(name, []).append(value)
    if not values:
        return None
    caches = values.get(b"kv_cache_usage_perc") or values.get(b"gpu_cache_usage_perc")
    return EndpointLoad(
        running_count=_total(values.get(b"num_requests_running")),
        waiting_count=_total(values.get(b"num_requests_waiting")),
        cache_usage_ratio=min(1.0, max(caches)) if caches else None,
    )


def _total(values: list[float] | None) -> int | None:
    return int(sum(values)) if values else None
