"""`first router`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from first_core.cli import options

if TYPE_CHECKING:
    from pathlib import Path


@click.command("router")
@options.config
@options.grpc
@options.workers
@options.worker
def command(
    config: Path | None,
    grpc_listen: str | None,
    worker_count: int,
    worker: str | None,
) -> None:
    """Run the router alone, for gRPC clients and fronts elsewhere.

    Ctrl-C or SIGTERM ends it.
    """
    from first_core.app import Process  # noqa: PLC0415 - heavy, not for --help
    from first_core.cli import processes  # noqa: PLC0415
    from first_core.cli.announcement import Announcement  # noqa: PLC0415
    from first_core.cli.loops import run  # noqa: PLC0415
    from first_core.cli.supervision import run_workers  # noqa: PLC0415
    from first_core.errors import SettingsError  # noqa: PLC0415

    source = processes.source(config, grpc_listen=grpc_listen, worker=worker)
    if worker_count > 1:
        run_workers("router", source, worker_count)
    settings = source.read()
    if settings.core.grpc.listen is None:
        raise SettingsError("grpc.listen: a router alone must listen; set an address")

    async def work() -> None:
        process = Process(
            settings, source.host, with_fronts=False, read=source.read, worker=source.worker
        )
        await processes.serve(process, Announcement(settings, process.router), source.worker)

    run(work())
