"""Models, health, version, metrics, and the simulator's own control surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.testing.simulator import faults
from first_core.testing.simulator.calls import encode, now
from first_core.testing.simulator.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from first_core.testing.simulator.calls import Handler
    from first_core.testing.simulator.http import Exchange
    from first_core.testing.simulator.server import Simulator

METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def models(sim: Simulator, exchange: Exchange) -> None:
    """Answer with the model cards, adapters after the models."""
    settings = sim.settings
    cards = [_card(name, None, settings.max_model_len) for name in settings.models]
    cards += [_card(lora.name, lora.parent, None) for lora in settings.lora_adapters]
    exchange.plain(200, encode({"object": "list", "data": cards}))


def _card(name: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    created = now()
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "vllm",
        "root": name,
        "parent": parent,
        "max_model_len": max_model_len,
        "permission": [
            {
                "id": f"modelperm-{name}",
                "object": "model_permission",
                "created": created,
                "allow_create_engine": False,
                "allow_sampling": True,
                "allow_logprobs": True,
                "allow_search_indices": False,
                "allow_view": True,
                "allow_fine_tuning": False,
                "organization": "*",
                "group": None,
                "is_blocking": False,
            }
        ],
    }


def health(_sim: Simulator, exchange: Exchange) -> None:
    """Answer 200 with nothing in it."""
    exchange.plain(200, b"", content_type="")


def version(sim: Simulator, exchange: Exchange) -> None:
    """Answer with the version."""
    exchange.plain(200, encode({"version": sim.settings.version}))


def metrics(sim: Simulator, exchange: Exchange) -> None:
    """Answer with vLLM's metrics in Prometheus text."""
    text = "\n".join(_metric_lines(sim)) + "\n"
    exchange.plain(200, text.encode(), content_type=METRICS_TYPE)


def _metric_lines(sim: Simulator) -> Iterator[str]:
    engine = sim.engine
    label = sim.settings.models[0].replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    labels = f'engine="0",model_name="{label}"'
    used = min(1.0, engine.running_count / max(1, engine.max_running))
    gauges = {
        "num_requests_running": (engine.running_count, "Number of requests in execution."),
        "num_requests_waiting": (len(engine.waiting), "Number of requests waiting for a slot."),
        "kv_cache_usage_perc": (used, "KV-cache usage. 1 means 100 percent usage."),
        "gpu_cache_usage_perc": (used, "The same under its older name."),
    }
    for name, (value, text) in gauges.items():
        yield f"# HELP vllm:{name} {text} SIMULATED."
        yield f"# TYPE vllm:{name} gauge"
        yield f"vllm:{name}{{{labels}}} {float(value)}"
    counters = {
        "prompt_tokens": (engine.prompt_token_count, "Number of prefill tokens."),
        "generation_tokens": (engine.generation_token_count, "Number of generated tokens."),
    }
    for name, (value, text) in counters.items():
        yield f"# HELP vllm:{name}_total {text} SIMULATED."
        yield f"# TYPE vllm:{name}_total counter"
        yield f"vllm:{name}_total{{{labels}}} {float(value)}"
    yield "# HELP vllm:request_success_total Count of finished requests. SIMULATED."
    yield "# TYPE vllm:request_success_total counter"
    finishes = {"stop": 0, "length": 0, "abort": sim.abort_count, **engine.finish_counts}
    for reason, value in finishes.items():
        yield (f'vllm:request_success_total{{{labels},finished_reason="{reason}"}} {float(value)}')


def sleep(sim: Simulator, exchange: Exchange) -> None:
    """Fall asleep; answers 200 with nothing in it."""
    sim.is_sleeping = True
    exchange.plain(200, b"", content_type="")


def wake_up(sim: Simulator, exchange: Exchange) -> None:
    """Wake up; answers 200 with nothing in it."""
    sim.is_sleeping = False
    exchange.plain(200, b"", content_type="")


def is_sleeping(sim: Simulator, exchange: Exchange) -> None:
    """Answer with whether it sleeps."""
    exchange.plain(200, encode({"is_sleeping": sim.is_sleeping}))


def about(sim: Simulator, exchange: Exchange) -> None:
    """Answer with what this is."""
    settings = sim.settings
    facts = {
        "simulator": True,
        "what": "This is a SIMULATOR. No model runs here; each answer is made up from a seed.",
        "name": settings.name,
        "cluster": settings.cluster,
        "models": list(settings.models),
        "lora_adapters": [lora.name for lora in settings.lora_adapters],
        "running": sim.running_count,
        "waiting": sim.waiting_count,
        "received": sim.received_count,
        "aborted": sim.abort_count,
        "fault_ratio": settings.fault_ratio,
        "faults": sim.faults.describe(),
    }
    exchange.plain(200, encode(facts))


def add_fault(sim: Simulator, exchange: Exchange) -> None:
    """Arm the fault that the body names: `{"fault": name, "times": 1, "path": null, …fields}`."""
    try:
        fields = msgspec.json.decode(exchange.request.body, type=dict[str, Any])
        name = fields.pop("fault", None)
        times = fields.pop("times", 1)
        path = fields.pop("path", None)
        if not (times is None or type(times) is int) or not (path is None or type(path) is str):
            raise ValueError("times is a number or null, path a string or null")  # noqa: TRY301
        sim.faults.add(faults.from_fields(str(name), fields), times=times, path=path)
    except (msgspec.DecodeError, ValueError) as exc:
        raise ApiError(400, str(exc)) from exc
    exchange.plain(200, encode({"faults": sim.faults.describe()}))


def clear_faults(sim: Simulator, exchange: Exchange) -> None:
    """Disarm all faults."""
    sim.faults.clear()
    exchange.plain(200, encode({"faults": []}))


ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "/v1/models": {"GET": models},
    "/health": {"GET": health},
    "/ping": {"GET": health, "POST": health},
    "/version": {"GET": version},
    "/metrics": {"GET": metrics},
    "/sleep": {"POST": sleep},
    "/wake_up": {"POST": wake_up},
    "/is_sleeping": {"GET": is_sleeping},
    "/sim": {"GET": about},
    "/sim/faults": {"POST": add_fault, "DELETE": clear_faults},
}
