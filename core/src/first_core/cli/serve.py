"""`first serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from first_core.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("serve")
@options.config
@options.http
@options.grpc
@options.workers
@options.worker
def command(
    config: Path | None,
    http_listen: str | None,
    grpc_listen: str | None,
    worker_count: int,
    worker: str | None,
) -> None:
    """Run the gateway: front and router in one process.

    Without a settings file it serves what it finds: a vLLM server on its usual port, and APIs
    whose keys are in the environment.

    Ctrl-C or SIGTERM ends it: calls in flight get some time to end, and a second Ctrl-C gives them
    none.
    """
    from first_core.app import Process  # noqa: PLC0415 - heavy, not for --help
    from first_core.cli import processes  # noqa: PLC0415
    from first_core.cli.announcement import Announcement  # noqa: PLC0415
    from first_core.cli.loops import run  # noqa: PLC0415
    from first_core.cli.supervision import run_workers  # noqa: PLC0415

    source = processes.source(
        config, http_listen=http_listen, grpc_listen=grpc_listen, worker=worker
    )
    if worker_count > 1:
        run_workers("serve", source, worker_count)
    settings = source.read()

    async def work() -> None:
        process = Process(settings, source.host, read=source.read, worker=source.worker)
        await processes.serve(process, Announcement(settings, process.router), source.worker)

    run(work())
