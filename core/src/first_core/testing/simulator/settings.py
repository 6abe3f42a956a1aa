"""What a simulated server is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from first_core.testing.simulator.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """A LoRA adapter, served under a name of its own."""

    name: str
    parent: str
    """Name of the model that it adapts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """One simulated server. The same settings give the same answers on every machine."""

    models: tuple[str, ...] = ("sim-model",)
    """Names served, at least one. The first answers calls that name no model."""

    lora_adapters: tuple[LoraAdapter, ...] = ()

    name: str = ""
    """Told in the greeting of each answer and by `GET /sim`; empty for none."""

    cluster: str = ""
    """Cluster that the server plays to be on, told like `name`."""

    greeting: bool = True
    """Begin each text answer with "(simulated)", so that nobody takes it for a model's."""

    seed: int = 0
    """Two servers with the same seed give the same text, whatever their names."""

    natural_token_count: int = 60
    """Tokens after which an answer ends by itself, greeting included, 1 or more."""

    first_token_delay_s: float = 0.0
    token_interval_s: float = 0.0
    """Seconds from token to token of each stream; 0: as fast as the socket takes them."""

    burst_event_count: int = 8
    """Ticks of a stream sent in one write where `token_interval_s` is 0, 1 or more."""

    max_running: int = 256
    """Calls worked on at the same time; the others wait. vLLM: `--max-num-seqs`."""

    sweet_spot: int | None = None
    """Calls in the engine, running and waiting, up to which it keeps its pace, 1 or more; `None`:
    it keeps it whatever comes. See `slowdown`."""

    crowding_ratio: float = 0.5
    """Share by which each token takes longer while twice `sweet_spot` calls are in, 0 or more."""

    max_model_len: int = 8192
    """Tokens of prompt and answer together."""

    embedding_dimension_count: int = 32

    api_key: str | None = field(default=None, repr=False)
    """Asked for as bearer credential on `/v1/...`, as `vllm serve --api-key` does."""

    answer_auto_tools: bool = False
    """With `tools` and `tool_choice: "auto"`: call the first tool instead of answering."""

    received_limit: int = 1000
    """Requests kept in `Simulator.received`; the oldest go first."""

    fault_ratio: float = 0.0
    """Share of inference calls, 0 to 1, that get one of `random_faults`, drawn by `seed`."""

    random_faults: tuple[Fault, ...] = ()
    """Drawn from for `fault_ratio`; empty: 429, 500, 503, a reset, and a cut stream."""

    version: str = "0.11.0+simulator"
    """Told by `GET /version`."""
