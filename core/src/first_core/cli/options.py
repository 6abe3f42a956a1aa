"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

DEFAULT_CONFIG: Final = Path("first.yaml")
"""Read from the working directory when no other file is named."""

DEFAULT_ROUTER: Final = "127.0.0.1:50051"


def _chosen(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is None and DEFAULT_CONFIG.is_file():
        return DEFAULT_CONFIG
    return value


config = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FIRST_CONFIG",
    show_envvar=True,
    callback=_chosen,
    help="Settings file. Default: first.yaml here, if there is one.",
)

config_argument = click.argument(
    "config",
    metavar="[FILE]",
    required=False,
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="FIRST_CONFIG",
    callback=_chosen,
)

http = click.option("--http", "http_listen", metavar="ADDR", help="Overrides http.listen.")

grpc = click.option(
    "--grpc", "grpc_listen", metavar="ADDR", help="Overrides grpc.listen; `off` turns it off."
)


_ROUTER_HELP = "The router's gRPC address: host:port or unix:path."

router = click.option(
    "--router",
    "router_target",
    metavar="TARGET",
    envvar="FIRST_ROUTER",
    show_envvar=True,
    default=DEFAULT_ROUTER,
    show_default=True,
    help=_ROUTER_HELP,
)

required_router = click.option(
    "--router",
    "router_target",
    metavar="TARGET",
    envvar="FIRST_ROUTER",
    show_envvar=True,
    required=True,
    help=_ROUTER_HELP,
)

workers = click.option(
    "--workers",
    "worker_count",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Processes that share the port. Bounds on calls in flight hold for all together.",
)

worker = click.option("--worker", "worker", hidden=True, help="Which worker this process is.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
