"""Two gateways that are peers, north and south, each before two simulated servers of one model."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from first_core.app import Process
from first_core.cli import processes
from first_core.cli.announcement import FIRST_LOOK_S, Announcement
from first_core.cli.demonstration import PLUGINS, TOKEN_INTERVAL_S, need_plugins
from first_core.plugin import hookimpl
from first_core.testing.simulator import Simulator, SimulatorSettings
from first_core.types import EndpointState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from first_core.settings import Settings
    from first_core.telemetry import CallRecord

MODEL: Final = "sim-common"
"""The one model, in four places."""

SERVER_COUNT: Final = 2
"""Simulated servers of each gateway."""

STDIN: Final = 0


@dataclass(frozen=True, slots=True)
class Site:
    """One of the two gateways: its name, where it listens, and its only peer."""

    name: str
    http: str
    grpc: str
    peers: str
    other: str
    other_peers: str


async def demonstrate(north: Site, south: Site) -> None:
    """Run servers and both gateways until SIGINT or SIGTERM; nothing outlives this.

    Args:
        north: The gateway that the examples ask.
        south: Its peer.

    Raises:
        StartupError: An address is taken, or the front or the vLLM backend is not installed.
    """
    need_plugins()
    async with _servers((north, south)) as servers:
        texts = {site.name: _settings_text(site, servers) for site in (north, south)}
        second, _ = _process(south.name, texts[south.name])
        try:
            addresses = await second.start()
            process, settings = _process(north.name, texts[north.name])
            announcement = FederationAnnouncement(settings, process, texts, addresses)
            with Switchboard(servers).on_lines():
                await processes.serve(process, announcement)
        finally:
            await second.stop()


@contextlib.asynccontextmanager
async def _servers(sites: tuple[Site, ...]) -> AsyncIterator[dict[str, Simulator]]:
    names = [f"{site.name}-{number + 1}" for site in sites for number in range(SERVER_COUNT)]
    async with contextlib.AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(_simulator(name)) for name in names}


def _simulator(name: str) -> Simulator:
    return Simulator(
        SimulatorSettings(models=(MODEL,), cluster=name, token_interval_s=TOKEN_INTERVAL_S)
    )


def _settings_text(site: Site, servers: dict[str, Simulator]) -> str:
    own = "".join(
        f"    - {{url: {server.url}, cluster: {name}}}\n"
        for name, server in servers.items()
        if name.startswith(f"{site.name}-")
    )
    return f"""\
http: {{listen: {site.http}}}
grpc: {{listen: {site.grpc}}}
vllm:
  servers:
{own}federation:
  name: {site.name}
  listen: {site.peers}
  peers: [{{name: {site.other}, target: {site.other_peers}}}]
  accept: [{{name: {site.other}}}]
plugins: {{allow: [{", ".join(PLUGINS)}]}}
log: {{level: error}}
"""


def _process(name: str, text: str) -> tuple[Process, Settings]:
    with tempfile.TemporaryDirectory(prefix="first-demo-") as folder:
        path = Path(folder) / "first.yaml"
        path.write_text(text, encoding="utf-8")
        source = processes.source(path)
        settings = replace(source.read(), source=None)  # gone when this returns
    source.host.add("demo", CallTeller(name))
    return Process(settings, source.host), settings


class CallTeller:
    """A plugin that tells a person which endpoint answered each call.

    Args:
        gateway: Name of the gateway.
    """

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway

    @hookimpl
    def first_on_call_ended(self, record: CallRecord) -> None:
        """Print one line."""
        if record.error_reason or record.endpoint is None:
            click.echo(f"{self._gateway}: no answer: {record.error_reason}", err=True)
            return
        way = f" through {record.endpoint.replica}" if record.endpoint.replica else ""
        attempts = f", {record.attempt_count} attempts" if record.attempt_count > 1 else ""
        click.echo(
            f"{self._gateway}: answered by {record.endpoint.cluster}{way}{attempts}", err=True
        )


class Switchboard:
    """Stops and starts simulated servers as lines on standard input say.

    Args:
        servers: By name.
    """

    def __init__(self, servers: dict[str, Simulator]) -> None:
        self._servers = servers
        self._rest = b""
        self._work: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def on_lines(self) -> Iterator[None]:
        """Listen to lines; does nothing where standard input is no terminal and no pipe."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(STDIN, self._read)
        except OSError:  # a file, which cannot be waited for
            yield
            return
        try:
            yield
        finally:
            loop.remove_reader(STDIN)

    def _read(self) -> None:
        data = os.read(STDIN, 4096)
        if not data:
            asyncio.get_running_loop().remove_reader(STDIN)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            task = asyncio.ensure_future(self.obey(line.decode("utf-8", "replace")))
            self._work.add(task)
            task.add_done_callback(self._work.discard)

    async def obey(self, line: str) -> None:
        """Do what one line says, and tell it."""
        verb, _, name = line.strip().partition(" ")
        server = self._servers.get(name.strip())
        if server is None or verb not in {"kill", "start"}:
            if line.strip():
                names = ", ".join(self._servers)
                click.echo(f"write `kill NAME` or `start NAME`; names: {names}", err=True)
            return
        if verb == "kill":
            await server.pause_listening()
            click.echo(f"{name} is killed", err=True)
        else:
            await server.resume_listening()
            click.echo(f"{name} is started", err=True)


class FederationAnnouncement(Announcement):
    """Says what runs where, and what to try.

    Args:
        settings: Of the first gateway.
        process: The first gateway.
        texts: The settings of both as files would have them, by name.
        addresses: Where the second gateway listens.
    """

    def __init__(
        self, settings: Settings, process: Process, texts: dict[str, str], addresses: list[str]
    ) -> None:
        super().__init__(settings, process.router)
        self._texts = texts
        self._second = next((a for a in addresses if a.startswith("http://")), "")

    def source(self) -> str:
        """Return what is simulated, and the settings of both."""
        told = ["demo: two gateways that are peers, north and south, one model in four places."]
        told.append("No model runs: the text is made up.")
        for name, text in self._texts.items():
            told.append(f"{name} is the same as this first.yaml:")
            told += [f"  | {line}" for line in text.splitlines()]
        told.append(f"south listens on {self._second}, north as follows:")
        return "\n".join(told)

    async def models(self) -> str:
        """Wait for all four places, then say what there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._wait_all()
        return await super().models()

    async def _wait_all(self) -> None:
        router = self._router
        while router is not None:
            change = router.catalog.next_change()
            route = router.routes.resolve(MODEL)
            states = [target.report.state for target in route.targets] if route else []
            if states.count(EndpointState.READY) == 2 * SERVER_COUNT:
                return
            await change.wait()

    def examples(self, address: str, model: str) -> list[str]:
        """Return a curl line, and what to type to see servers fail."""
        return [
            *super().examples(address, model),
            "then type, here:",
            "  kill north-1      and ask again: north-2 answers",
            "  kill north-2      and ask again: south answers, through its gateway",
            "  start north-1     and it answers again",
            f"the same model through the other gateway: {self._second}",
            "Ctrl-C ends it.",
        ]
