"""What hooks are handed: registers take offers and refuse a name that is taken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import click

from first_core.errors import PluginConflictError, SettingsError
from first_core.plugin.backend import Backend
from first_core.plugin.front import Front, FrontContext
from first_core.plugin.policy import RoutingPolicy
from first_core.settings import Section

if TYPE_CHECKING:
    from first_core.clock import Clock
    from first_core.telemetry import Telemetry

T = TypeVar("T")
S = TypeVar("S", bound=Section)


@dataclass(frozen=True, slots=True)
class BackendContext:
    """What a backend gets to work with."""

    clock: Clock
    """The time."""
    telemetry: Telemetry
    """Metrics, traces and logs of this process."""


BackendFactory: TypeAlias = Callable[[BackendContext], Backend]
FrontFactory: TypeAlias = Callable[[FrontContext], Front]
PolicyFactory: TypeAlias = Callable[[], RoutingPolicy]


class Register(Generic[T]):
    """Takes offers by name, in the order of arrival."""

    def __init__(self, thing: str) -> None:
        self._thing = thing
        self._offers: dict[str, T] = {}

    def __call__(self, name: str, offer: T) -> None:
        """Take `offer` under `name`.

        Raises:
            PluginConflictError: The name is taken.
        """
        if name in self._offers:
            raise PluginConflictError(f"two plugins offer the {self._thing} {name!r}")
        self._offers[name] = offer

    def offers(self) -> dict[str, T]:
        """Return a copy of what was offered, by name."""
        return dict(self._offers)


class BackendRegister(Register[BackendFactory]):
    """Takes a backend's kind and the factory that makes it, and notes the sections that it reads.

    Args:
        thing: What is offered.
        settings: What the hooks are handed with it.
    """

    def __init__(self, thing: str, settings: PluginSettings) -> None:
        super().__init__(thing)
        self._settings = settings
        self._keys: dict[str, set[str]] = {}
        self._last_keys: set[str] = set()

    def __call__(self, name: str, offer: BackendFactory) -> None:
        """Take `offer` under `name`.

        Raises:
            PluginConflictError: The name is taken.
        """
        # Plugins are asked one by one, so what was read since the last offer is this one's; a
        # second offer of the same plugin has read nothing further.
        keys = self._settings.take_read_keys() or self._last_keys
        self._last_keys = keys
        self._keys[name] = set(keys)

        def make(context: BackendContext) -> Backend:
            backend = offer(context)
            self._keys[name] |= self._settings.take_read_keys()
            return backend

        super().__call__(name, make)

    def section_keys(self, name: str) -> frozenset[str]:
        """Return the keys of the sections that the backend `name` is made from."""
        return frozenset(self._keys[name])


class FrontRegister(Register[FrontFactory]):
    """Takes a front's kind and the factory that makes it."""


class SettingsRegister(Register[type[Section]]):
    """Takes a section's key and its model."""


class PolicyRegister(Register[PolicyFactory]):
    """Takes a routing policy's name and the factory that makes one for a model."""


class CommandRegister(Register[click.Command]):
    """Takes a command's name and the command."""


class PluginSettings:
    """Hands out the validated sections of the settings by their model."""

    def __init__(self, sections: dict[str, Section]) -> None:
        self._by_model = {type(section): (key, section) for key, section in sections.items()}
        self._read_keys: set[str] = set()

    def section(self, model: type[S]) -> S:
        """Return the section whose model is `model`.

        Raises:
            SettingsError: No hook offered that section.
        """
        key, section = self._by_model.get(model, ("", None))
        if not isinstance(section, model):
            raise SettingsError(f"no plugin offered a settings section {model.__name__}")
        self._read_keys.add(key)
        return section

    def take_read_keys(self) -> set[str]:
        """Return the keys of the sections that were handed out since the last look."""
        keys, self._read_keys = self._read_keys, set()
        return keys
