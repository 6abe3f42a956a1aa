"""Simulated engines and gateways of the measures that need sets of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench.systems import System, free_ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ENGINE_SLOTS: Final = 8
"""Calls that a simulated engine works on at the same time."""

CALL_S: Final = 0.25
"""How long each takes. Together 32 calls a second, about a hundredth of what a core of gateway or
load can do, so that the engine is what is full, and nothing else."""

TOKEN_COUNT: Final = 6

CROWDING_RATIO: Final = 0.25
"""How much longer tokens take in an engine with twice the calls of its sweet spot. Assumed, not
measured on an engine: any slope above 0 shows that there is something to lose, none shows how much.
"""


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """One `first sim` with `ENGINE_SLOTS` slots of `CALL_S` each."""

    model: str
    sweet_spot: int | None = None
    """Calls in it beyond which it gets slower; None: never."""


def engines(first: str, wanted: Mapping[str, SimulatedEngine]) -> System:
    """The engines, each at a port under its own name."""
    ports = dict(zip(wanted, free_ports(len(wanted)), strict=True))
    commands = []
    for name, engine in wanted.items():
        command = [
            *(first, "sim", "--host", "127.0.0.1", "--port", str(ports[name])),
            *("--model", engine.model, "--tokens", str(TOKEN_COUNT)),
            *("--token-interval-ms", f"{1e3 * CALL_S / (TOKEN_COUNT - 1):g}"),
            *("--max-running", str(ENGINE_SLOTS)),
        ]
        if engine.sweet_spot is not None:
            command += ["--sweet-spot", str(engine.sweet_spot)]
            command += ["--crowding-ratio", f"{CROWDING_RATIO:g}"]
        commands.append(command)
    return System("engines", commands, ports)


def gateway(
    first: str,
    folder: Path,
    name: str,
    servers: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
) -> System:
    """`first serve` before some servers; further settings as in the settings file."""
    http, grpc = free_ports(2)
    tree = {
        "http": {"listen": f"127.0.0.1:{http}"},
        "grpc": {"listen": f"127.0.0.1:{grpc}"},
        "vllm": {"servers": list(servers)},
        "telemetry": {"sample_ratio": 0.01},
        **(settings or {}),
    }
    config = folder / f"{name}-{http}.yaml"
    config.write_text(json.dumps(tree))  # JSON is YAML
    return System(name, [[first, "serve", "--config", str(config)]], {"http": http})


def server(port: int, cluster: str, **fields: object) -> dict[str, object]:
    """One entry of `vllm.servers`."""
    return {"url": f"http://127.0.0.1:{port}", "cluster": cluster, **fields}
