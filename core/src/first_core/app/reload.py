"""Takes new settings while calls run: checked first, then swapped at once."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from first_core.errors import StartupError
from first_core.plugin import PluginSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from first_core.app.router import Router
    from first_core.clock import Clock
    from first_core.settings import Section, Settings

RELOADED: Final = (
    "limits",
    "timeouts",
    "routing",
    "endpoints",
    "resilience",
    "admission",
    "forward_headers",
)
"""Sections of the core that a reload changes; others were used at the start."""

_log = logging.getLogger(__name__)


class Reloadable(Protocol):
    """What listens, and can take settings while it does."""

    def configure(self, settings: PluginSettings) -> frozenset[str]:
        """Take new settings; return what was taken, as `section.field`."""


class Reloader:
    """Reads the settings again and hands them to router and fronts.

    Args:
        settings: As they are in force.
        read: Reads and validates the settings again; runs in a thread.
        router: `None` when it runs elsewhere.
        fronts: Returns those that listen, the one for peers too.
    """

    def __init__(
        self,
        settings: Settings,
        read: Callable[[], Settings],
        router: Router | None,
        fronts: Callable[[], Sequence[Reloadable]],
    ) -> None:
        self._settings = settings
        self._read = read
        self._router = router
        self._fronts = fronts
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Ask for a reload; asked again while one runs, one more follows."""
        self._asked.set()

    async def serve(self) -> None:
        """Reload whenever it is asked for, until it is cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload()

    async def reload(self) -> bool:
        """Read the settings and put them in force; `False`: they are wrong, nothing changed."""
        try:
            await self._reload(await asyncio.to_thread(self._read))
        except StartupError as exc:
            for fault in str(exc).splitlines():
                _log.error("settings_refused", extra={"fault": fault})
        except Exception:  # the edge of the process: a fault of a plugin ends nothing
            _log.exception("reload_failed")
        else:
            return True
        return False

    async def _reload(self, new: Settings) -> None:
        old, router = self._settings, self._router
        kinds: list[str] = []
        backend_keys: frozenset[str] = frozenset()
        if router is not None:
            change = await router.prepare(new)
            # Nothing may fail from here on.
            kinds = router.configure(new, change, drain_s=old.core.drain_s)
            backend_keys = change.section_keys
        taken = self._configure_fronts(new)
        changed = _changed(old, new)
        reloaded = {
            key
            for key in changed
            if key in taken or key.partition(".")[0] in backend_keys.union(RELOADED)
        }
        self._settings = _merge(old, new, backend_keys, taken)
        _log.info("settings_reloaded", extra={"changed": sorted(reloaded), "backends": kinds})
        if changed - reloaded:
            _log.warning("settings_need_restart", extra={"keys": sorted(changed - reloaded)})

    def _configure_fronts(self, new: Settings) -> frozenset[str]:
        settings = PluginSettings(new.sections)
        return frozenset().union(*(front.configure(settings) for front in self._fronts()))


def _changed(old: Settings, new: Settings) -> set[str]:
    """Return what differs, as `section.field`, or the key alone where it is no section."""
    found: set[str] = set()
    for key in type(old.core).model_fields:
        found |= _differences(key, getattr(old.core, key), getattr(new.core, key, None))
    for key, section in old.sections.items():
        found |= _differences(key, section, new.sections.get(key))
    return found


def _differences(key: str, old: object, new: object) -> set[str]:
    if old == new:
        return set()
    fields: Iterable[str] = getattr(type(old), "model_fields", ())
    named = {f"{key}.{f}" for f in fields if getattr(old, f) != getattr(new, f, None)}
    return named or {key}


def _merge(
    old: Settings, new: Settings, backend_keys: frozenset[str], taken: frozenset[str]
) -> Settings:
    """Return what is in force: the old settings with all that was taken of the new ones."""
    core = old.core.model_copy(update={key: getattr(new.core, key) for key in RELOADED})
    sections: dict[str, Section] = {}
    for key, section in old.sections.items():
        fields = [t.partition(".")[2] for t in taken if t.partition(".")[0] == key]
        update = {field: getattr(new.sections[key], field) for field in fields}
        base = new.sections[key] if key in backend_keys else section
        sections[key] = base.model_copy(update=update)
    return replace(old, core=core, sections=sections)


class FileWatch:
    """Looks at a file again and again.

    Notices of the system would miss files that are mounted or linked, as those of Kubernetes are.

    Args:
        path: The file; a change from now on counts.
        clock: The time.
        interval_s: Seconds between two looks.
    """

    def __init__(self, path: Path, clock: Clock, interval_s: float) -> None:
        self._path = path
        self._clock = clock
        self._interval_s = interval_s
        self._stamp = _stamp(path)

    async def serve(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the file was written or replaced, until it is cancelled."""
        while True:
            await self._clock.sleep(self._interval_s)
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                changed()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
