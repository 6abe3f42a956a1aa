"""The way to one provider: its keys, its paths, its list of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from first_core.errors import BackendUnavailableError, LimitExceededError
from first_core.plugin.http import HttpUpstream, is_refused_credential
from first_core.settings import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from first_core.clock import Clock
    from first_core.plugin import Answer, BackendContext, Call, ChunkSink
    from first_core.plugin.watchdog import Watchdog
    from first_core.types import Operation
    from first_direct.settings import ProviderSettings

T = TypeVar("T")

ANTHROPIC_VERSION: Final = "2023-06-01"
"""`anthropic-version` of calls that name none. Source: Anthropic's API reference, "Versions"."""

REFUSED_REST_S: Final = 300.0
"""How long a key rests that the provider refused, in seconds: a person has to act."""

LIMITED_REST_S: Final = 10.0
"""How long a key rests at its limit where the provider names no time, in seconds."""

_LIST_TIMEOUT_S: Final = 10.0
_MAX_LIST_BYTES: Final = 16 * 1024 * 1024
_ANTHROPIC_PAGE: Final = "models?limit=1000"
"""Its list comes in pages of 20 unless asked for more; 1,000 is the most."""


class ListError(Exception):
    """The provider gives no list of models; the message is for the log."""


class _Model(msgspec.Struct):
    id: str
    owned_by: Any = None
    context_length: Any = None
    max_model_len: Any = None


class _ModelList(msgspec.Struct):
    data: list[_Model]


class ListedModel(msgspec.Struct, frozen=True):
    """One entry of a provider's list of models."""

    name: str
    owner: str = ""
    context_window_token_count: int = 0


class Key:
    """The headers that show one credential, and until when it rests."""

    __slots__ = ("headers", "rests_until_s")

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self.rests_until_s = 0.0


class KeyRing:
    """Hands out keys in turn, and passes over those that rest.

    Args:
        keys: At least one.
        clock: The time.
    """

    def __init__(self, keys: list[Key], clock: Clock) -> None:
        self._keys = keys
        self._clock = clock
        self._next = 0

    def take(self) -> Key:
        """Return the next key that is awake; where all rest, the one that wakes first."""
        now_s = self._clock.monotonic()
        count = len(self._keys)
        for step in range(count):
            index = (self._next + step) % count
            if self._keys[index].rests_until_s <= now_s:
                self._next = index + 1
                return self._keys[index]
        return min(self._keys, key=lambda key: key.rests_until_s)

    def rest(self, key: Key, seconds: float) -> bool:
        """Let `key` rest, and return whether another one is awake."""
        now_s = self._clock.monotonic()
        key.rests_until_s = now_s + seconds
        return any(other.rests_until_s <= now_s for other in self._keys if other is not key)


class DirectUpstream:
    """One provider.

    Args:
        settings: Of the provider.
        context: What the backend got.
        watchdog: Shared by the backend's providers.
    """

    def __init__(
        self, settings: ProviderSettings, context: BackendContext, watchdog: Watchdog
    ) -> None:
        self._is_anthropic = settings.dialect == "anthropic"
        self._http = HttpUpstream(
            settings.root_url, settings=settings.upstream, context=context, watchdog=watchdog
        )
        self._keys = KeyRing(_keys(settings), context.clock)

    async def start(self) -> None:
        """Make ready to send."""
        await self._http.start()

    async def stop(self) -> None:
        """Close all connections; safe to repeat."""
        await self._http.stop()

    async def call(self, call: Call) -> Answer:
        """Run one call; raises as `Backend.call`."""
        path = _path(call.operation)
        return await self._with_key(
            call, lambda headers: self._http.call(path, call, headers=headers)
        )

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Run one call and write its answer into `sink`; raises as `Backend.stream`."""
        path = _path(call.operation)
        await self._with_key(
            call, lambda headers: self._http.stream(path, call, sink, headers=headers)
        )

    async def models(self) -> list[ListedModel]:
        """Return what the provider lists.

        Raises:
            ListError: It lists nothing.
            BackendError: No answer.
        """
        response = await self._http.get(
            _ANTHROPIC_PAGE if self._is_anthropic else "models",
            headers=self._keys.take().headers,
            timeout_s=_LIST_TIMEOUT_S,
            max_bytes=_MAX_LIST_BYTES,
        )
        if response.status != 200:  # noqa: PLR2004 - OK
            raise ListError(f"HTTP {response.status}")
        return parse_models(response.body)

    async def _with_key(self, call: Call, send: Callable[[Mapping[str, str]], Awaitable[T]]) -> T:
        # A key that is refused has started nothing, so another one may try at once.
        while True:
            key = self._keys.take()
            try:
                return await send(self._headers(key, call))
            except LimitExceededError as exc:
                rest_s = LIMITED_REST_S if exc.retry_after_s is None else exc.retry_after_s
                if not self._keys.rest(key, rest_s):
                    raise
            except BackendUnavailableError as exc:
                if not is_refused_credential(exc) or not self._keys.rest(key, REFUSED_REST_S):
                    raise

    def _headers(self, key: Key, call: Call) -> Mapping[str, str]:
        version = call.headers.get("anthropic-version") if self._is_anthropic else None
        return {**key.headers, "anthropic-version": version} if version else key.headers


def _path(operation: Operation) -> str:
    return operation.path.removeprefix("v1/")


def _keys(settings: ProviderSettings) -> list[Key]:
    shared = {
        name: value.reveal() if isinstance(value, Secret) else value
        for name, value in settings.extra_headers.items()
    }
    if settings.dialect == "anthropic":
        shared = {"anthropic-version": ANTHROPIC_VERSION, **shared}
    shown = [_shown(secret.reveal(), settings.dialect) for secret in settings.api_keys]
    return [Key({**shared, **headers}) for headers in shown or [{}]]


def _shown(secret: str, dialect: str) -> dict[str, str]:
    if dialect == "anthropic":
        return {"x-api-key": secret}
    return {"authorization": f"Bearer {secret}"}


def parse_models(body: bytes) -> list[ListedModel]:
    """Return the models in the body of `GET models`.

    Raises:
        ListError: It is no such body.
    """
    try:
        entries = msgspec.json.decode(body, type=_ModelList).data
    except (ValueError, RecursionError) as exc:
        raise ListError("not readable") from exc
    return [
        ListedModel(
            name=entry.id,
            owner=entry.owned_by if isinstance(entry.owned_by, str) else "",
            context_window_token_count=_positive(entry.context_length)
            or _positive(entry.max_model_len),
        )
        for entry in entries
        if entry.id
    ]


def _positive(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
