"""What a person is told when a process has started: addresses, models, a line to try."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
from typing import TYPE_CHECKING, Any, Final

from first_core.types import EndpointState, Operation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from first_core.app import Router
    from first_core.domain.routes import Model
    from first_core.settings import Section, Settings

FIRST_LOOK_S: Final = 3.0
"""How long to wait for the first ready model before saying that there is none, in seconds: local
servers answer within a second, and nobody should wait longer for a line of text."""


class Announcement:
    """Words for a person.

    Args:
        settings: Of the process.
        router: Its router; `None` when that runs elsewhere.
    """

    def __init__(self, settings: Settings, router: Router | None) -> None:
        self._settings = settings
        self._router = router
        self._http = ""

    def start(self, addresses: Sequence[str]) -> str:
        """Return what is said at once: version, settings, addresses."""
        self._http = next((a for a in addresses if a.startswith("http://")), "")
        version = importlib.metadata.version("first-core")
        lines = [f"FIRST gateway {version}, {self.source()}"]
        lines += [f"  listening on {address}" for address in addresses]
        return "\n".join(lines)

    def source(self) -> str:
        """Return where the settings come from."""
        if self._settings.source is not None:
            return f"settings: {self._settings.source}"
        found = [
            f"{key} ({', '.join(names)})"
            for key, section in self._settings.sections.items()
            if (names := list(_found_names(section)))
        ]
        if self._router is None:
            return "no settings file"
        return f"no settings file: looking at {', '.join(found) or 'nothing'}"

    async def models(self) -> str:
        """Return what is said when the first model is ready, or none after `FIRST_LOOK_S`."""
        if self._router is None:
            return "ready"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._wait_ready()
        models = self._router.routes.models()
        if not models:
            return "no model yet: no upstream answers; it is looked for again and again"
        lines = ["models:"]
        lines += [f"  {model.id} ({_places(self._router, model)})" for model in models]
        able = [m for m in models if _answers_chat(m)]
        if self._http and able:
            lines += self.examples(self._http, able[0].id)
        return "\n".join(lines)

    def examples(self, address: str, model: str) -> list[str]:
        """Return lines to try."""
        return ["try:", f"  {curl_line(address, model)}"]

    async def _wait_ready(self) -> None:
        router = self._router
        while router is not None:
            change = router.catalog.next_change()
            if any(model.state is EndpointState.READY for model in router.routes.models()):
                return
            await change.wait()


def curl_line(address: str, model: str) -> str:
    """Return a command that asks a model through the gateway at `address`."""
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": model, "messages": [message]})
    return f"curl {address}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"


def _answers_chat(model: Model) -> bool:
    return model.state is EndpointState.READY and Operation.CHAT in model.operations


def _places(router: Router, model: Model) -> str:
    route = router.routes.resolve(model.id)
    reports = [target.report for target in route.targets] if route else []
    return ", ".join(f"{r.id.cluster} {r.state.name.lower()}" for r in reports)


def _found_names(section: Section) -> Iterable[str]:
    """Yield names of what a plugin found by itself: its defaults stand as fields that were set."""
    for field in section.model_fields_set:
        value: Any = getattr(section, field)
        if isinstance(value, dict):
            yield from map(str, value)
        for item in value if isinstance(value, list) else ():
            yield str(getattr(item, "name", "") or getattr(item, "url", "") or item)
