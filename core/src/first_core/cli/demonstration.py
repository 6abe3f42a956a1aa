"""The gateway before two simulated clusters, all in one process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from first_core.app import Process
from first_core.cli import processes
from first_core.cli.announcement import Announcement
from first_core.errors import PluginLoadError
from first_core.plugin.host import GROUP
from first_core.testing.simulator import Simulator, SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from first_core.app import Router
    from first_core.settings import Settings

TOKEN_INTERVAL_S: Final = 0.03
"""Pace of the simulated models, in seconds from token to token: slow enough to see it stream."""

PLUGINS: Final = {"gateway_http": "first-gateway-http", "vllm": "first-vllm"}
"""Plugins of the demo, and the distributions that bring them."""


async def demonstrate(http: str, grpc: str) -> None:
    """Run simulators and gateway until SIGINT or SIGTERM; nothing outlives this.

    Args:
        http: Where the front listens.
        grpc: Where the router listens.

    Raises:
        StartupError: An address is taken, or the front or the vLLM backend is not installed.
    """
    need_plugins()
    async with _clusters() as simulators:
        text = _settings_text(simulators, http, grpc)
        with tempfile.TemporaryDirectory(prefix="first-demo-") as folder:
            path = Path(folder) / "first.yaml"
            path.write_text(text, encoding="utf-8")
            source = processes.source(path)
            settings = source.read()
        settings = replace(settings, source=None)  # gone already
        process = Process(settings, source.host)
        await processes.serve(process, DemoAnnouncement(settings, process.router, text))


def need_plugins() -> None:
    """Check that what the demo needs is installed.

    Raises:
        PluginLoadError: It is not.
    """
    installed = {entry.name for entry in importlib.metadata.entry_points(group=GROUP)}
    missing = [distribution for name, distribution in PLUGINS.items() if name not in installed]
    if missing:
        raise PluginLoadError(f"the demo needs what is not installed: {', '.join(missing)}")


@contextlib.asynccontextmanager
async def _clusters() -> AsyncIterator[list[Simulator]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Simulator(each)) for each in _simulated()]


def _simulated() -> list[SimulatorSettings]:
    """Both have one model in common, so that one can stand in for the other."""
    return [
        SimulatorSettings(
            models=("sim-common", f"sim-{cluster}"),
            cluster=cluster,
            seed=seed,
            token_interval_s=TOKEN_INTERVAL_S,
        )
        for seed, cluster in enumerate(("north", "south"))
    ]


def _settings_text(simulators: Sequence[Simulator], http: str, grpc: str) -> str:
    servers = "".join(
        f"    - {{url: {sim.url}, cluster: {sim.settings.cluster}}}\n" for sim in simulators
    )
    return f"""\
http: {{listen: {http}}}
grpc: {{listen: {grpc}}}
vllm:
  servers:
{servers}plugins: {{allow: [{", ".join(PLUGINS)}]}}
"""


class DemoAnnouncement(Announcement):
    """Says that all is simulated, and how to go on.

    Args:
        settings: Of the process.
        router: Its router.
        text: The settings as a file would have them.
    """

    def __init__(self, settings: Settings, router: Router | None, text: str) -> None:
        super().__init__(settings, router)
        self._text = text

    def source(self) -> str:
        """Return what is simulated, and the settings."""
        lines = "".join(f"  | {line}\n" for line in self._text.splitlines())
        return (
            "demo: two simulated clusters, north and south.\n"
            "No model runs: the text is made up.\n"
            f"The same as this first.yaml:\n{lines.rstrip()}"
        )

    def examples(self, address: str, model: str) -> list[str]:
        """Return a curl line, the same with OpenAI's SDK, and pages to open."""
        return [
            *super().examples(address, model),
            "with OpenAI's SDK (pip install openai):",
            "  from openai import OpenAI",
            f'  client = OpenAI(base_url="{address}/v1", api_key="none")',
            '  messages = [{"role": "user", "content": "Hello"}]',
            "  for chunk in client.chat.completions.create(",
            f'      model="{model}", messages=messages, stream=True',
            "  ):",
            '      print(chunk.choices[0].delta.content or "", end="", flush=True)',
            f"open in a browser: {address}",
            "Ctrl-C ends it.",
        ]
