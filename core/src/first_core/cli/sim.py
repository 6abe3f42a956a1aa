"""`first sim`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from first_core.testing.simulator import Simulator

_POSITIVE = click.IntRange(min=1)
_FROM_ZERO = click.FloatRange(min=0)


@click.command("sim")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: a free one."
)
@click.option(
    "--model", "models", multiple=True, default=["sim-model"], show_default=True,
    help="Name to serve; may be repeated.",
)  # fmt: skip
@click.option("--name", default="", help="Told in the greeting of each answer.")
@click.option("--cluster", default="", help="Cluster that it plays to be on, told like the name.")
@click.option(
    "--tokens", type=_POSITIVE, default=60, show_default=True,
    help="Tokens after which an answer ends by itself.",
)  # fmt: skip
@click.option(
    "--token-interval-ms", type=_FROM_ZERO, default=0.0, show_default=True,
    help="From token to token; 0: as fast as it can.",
)  # fmt: skip
@click.option(
    "--first-token-delay-ms", type=_FROM_ZERO, default=0.0, show_default=True,
    help="Before the first token.",
)  # fmt: skip
@click.option(
    "--max-running", type=_POSITIVE, default=256, show_default=True,
    help="Calls worked on at the same time; the others wait.",
)  # fmt: skip
@click.option(
    "--sweet-spot", type=_POSITIVE,
    help="Calls in the engine beyond which tokens take longer. Default: it keeps its pace.",
)  # fmt: skip
@click.option(
    "--crowding-ratio", type=_FROM_ZERO, default=0.5, show_default=True,
    help="How much longer, as a share, with twice that many calls.",
)  # fmt: skip
@click.option(
    "--max-model-len", type=_POSITIVE, default=8192, show_default=True,
    help="Tokens of prompt and answer together.",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same answers.")
@click.option(
    "--fault-ratio", type=click.FloatRange(0, 1), default=0.0, show_default=True,
    help="Share of calls that fail: 429, 500, 503, a reset, a cut stream.",
)  # fmt: skip
@click.option("--api-key", help="Credential that callers must send; not a secret here.")
def command(  # noqa: PLR0917 - click passes them by name
    host: str,
    port: int,
    models: tuple[str, ...],
    name: str,
    cluster: str,
    tokens: int,
    token_interval_ms: float,
    first_token_delay_ms: float,
    max_running: int,
    sweet_spot: int | None,
    crowding_ratio: float,
    max_model_len: int,
    seed: int,
    fault_ratio: float,
    api_key: str | None,
) -> None:
    """Run a simulated inference server that behaves as vLLM does.

    No model runs: its text is made up from a seed. Ctrl-C or SIGTERM ends it.
    """
    from first_core.cli.loops import run, until_signal  # noqa: PLC0415 - heavy, not for --help
    from first_core.errors import StartupError  # noqa: PLC0415
    from first_core.testing.simulator import SimulatorSettings, run_simulator  # noqa: PLC0415

    settings = SimulatorSettings(
        models=models,
        name=name,
        cluster=cluster,
        natural_token_count=tokens,
        token_interval_s=token_interval_ms / 1000,
        first_token_delay_s=first_token_delay_ms / 1000,
        max_running=max_running,
        sweet_spot=sweet_spot,
        crowding_ratio=crowding_ratio,
        max_model_len=max_model_len,
        seed=seed,
        fault_ratio=fault_ratio,
        api_key=api_key,
    )
    try:
        run(until_signal(run_simulator(settings, host, port, on_start=_tell)))
    except OSError as exc:
        raise StartupError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc


def _tell(simulator: Simulator) -> None:
    click.echo(
        f"simulated inference server (no model runs): {', '.join(simulator.settings.models)}\n"
        f"  listening on {simulator.url}",
        err=True,
    )
