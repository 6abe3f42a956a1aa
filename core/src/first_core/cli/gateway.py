"""`first gateway`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from first_core.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("gateway")
@options.required_router
@options.config
@options.http
@options.workers
@options.worker
def command(
    router_target: str,
    config: Path | None,
    http_listen: str | None,
    worker_count: int,
    worker: str | None,
) -> None:
    """Run the front alone, before a router elsewhere.

    The router may be down when this starts: calls then fail until it is there. Ctrl-C or SIGTERM
    ends it.
    """
    from first_core.app import Process  # noqa: PLC0415 - heavy, not for --help
    from first_core.cli import processes  # noqa: PLC0415
    from first_core.cli.announcement import Announcement  # noqa: PLC0415
    from first_core.cli.loops import run  # noqa: PLC0415
    from first_core.cli.supervision import run_workers  # noqa: PLC0415

    source = processes.source(config, http_listen=http_listen, worker=worker)
    if worker_count > 1:
        run_workers("gateway", source, worker_count, ["--router", router_target])
    settings = source.read()

    async def work() -> None:
        process = Process(
            settings,
            source.host,
            router_target=router_target,
            read=source.read,
            worker=source.worker,
        )
        await processes.serve(process, Announcement(settings, process.router), source.worker)

    run(work())
