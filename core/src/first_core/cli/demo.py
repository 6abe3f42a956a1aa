"""`first demo`."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Coroutine

HTTP_PORT: Final = 8080
GRPC_PORT: Final = 50051
PEER_PORT: Final = 50061


@click.command("demo")
@click.option(
    "--port", type=click.IntRange(0, 65535),
    help=f"Port of the gateway. Default: {HTTP_PORT}, or the next free one.",
)  # fmt: skip
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535),
    help=f"Port for gRPC. Default: {GRPC_PORT}, or the next free one.",
)  # fmt: skip
@click.option(
    "--federation", is_flag=True,
    help="Run two gateways that are peers, with one model on two servers each; typed lines kill "
    "and start servers.",
)  # fmt: skip
def command(port: int | None, grpc_port: int | None, *, federation: bool) -> None:
    """Run the gateway before two simulated clusters, north and south.

    No model runs: the text is made up. Ctrl-C ends everything.
    """
    from first_core.cli.demonstration import demonstrate  # noqa: PLC0415 - heavy, not for --help
    from first_core.cli.loops import run  # noqa: PLC0415

    http = _next_free(HTTP_PORT) if port is None else port
    grpc = _next_free(GRPC_PORT) if grpc_port is None else grpc_port
    if federation:
        run(_federation(http, grpc))
    else:
        run(demonstrate(_local(http), _local(grpc)))


def _federation(http: int, grpc: int) -> Coroutine[Any, Any, None]:
    """Return the run of two gateways; the second one takes the ports after the first one's."""
    from first_core.cli.federation_demo import Site, demonstrate  # noqa: PLC0415 - as above

    north = _local(_next_free(PEER_PORT))
    south = _local(_next_free(int(north.rpartition(":")[2]) + 1))
    return demonstrate(
        Site("north", _local(http), _local(grpc), north, "south", south),
        Site("south", _local(_after(http)), _local(_after(grpc)), south, "north", north),
    )


def _after(port: int) -> int:
    """Return the next free port; 0, which means any, stays."""
    return _next_free(port + 1) if port else 0


def _local(port: int) -> str:
    return f"127.0.0.1:{port}"


def _next_free(port: int) -> int:
    """Return the first port from `port` on that can be bound now."""
    for candidate in range(port, 65536):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", candidate))
            return candidate
    raise click.ClickException(f"no free port from {port} on")
