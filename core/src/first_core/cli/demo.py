"""`first demo`."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import click

HTTP_PORT: Final = 8080
GRPC_PORT: Final = 50051


@click.command("demo")
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help=f"Port of the gateway. Default: {HTTP_PORT}, or the next free one.",
)  # fmt: skip
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535),
    help=f"Port for gRPC. Default: {GRPC_PORT}, or the next free one.",
)  # fmt: skip
def command(port: int | None, grpc_port: int | None) -> None:
    """Run the gateway before two simulated clusters, north and south.

    No model runs: the text is made up. Ctrl-C ends everything.
    """
    from first_core.cli.demonstration import demonstrate  # noqa: PLC0415 - heavy, not for --help
    from first_core.cli.loops import run  # noqa: PLC0415

    http = _next_free(HTTP_PORT) if port is None else port
    grpc = _next_free(GRPC_PORT) if grpc_port is None else grpc_port
    run(demonstrate(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"))


def _next_free(port: int) -> int:
    """Return the first port from `port` on that can be bound now."""
    for candidate in range(port, 65536):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return candidate
    raise click.ClickException(f"no free port from {port} on")
