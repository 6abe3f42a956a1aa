"""What the measures of resilience count, and as what."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from bench import fleet
from bench.caller import Caller, Reply
from bench.failover import Times, sort
from bench.lag import felt_s
from bench.load import Arrivals, Tally, chat
from bench.pairs import CHAT, KINDS, Pair
from bench.saturation import judge
from first_core.testing.simulator import ErrorStatus, Refuse, Simulator, SimulatorSettings

if TYPE_CHECKING:
    from pathlib import Path

PAIR = Pair(KINDS[0], "call")


def _reply(endpoint: str, attempt_count: int, fault: str = "") -> Reply:
    return Reply(0.5, fault, attempt_count, f"{endpoint}-m/vllm/m")


def test_refusals_are_a_share_and_no_errors():
    """A gateway that is full and says so does what it should."""
    tally = Tally(calls=30, latencies_s=[0.1] * 20)
    tally.errors.update({"status 503": 15, "status 429": 5, "status 500": 1})
    sample = judge(tally, 10, Counter({"status 500": 1}), [], 2.0)

    assert sample.numbers["calls_per_s"] == 10.0
    assert sample.numbers["refused"] == 0.5
    assert not sample.errors


def test_other_failures_are_errors():
    """A 500 is no refusal."""
    tally = Tally(calls=1)
    tally.errors["status 500"] = 2

    assert judge(tally, 0, Counter(), [], 1.0).errors == {"status 500": 2}


def test_calls_without_an_answer_count_as_slow_ones():
    """Who still waits is in the percentiles with the time so far."""
    tally = Tally(calls=3, latencies_s=[0.1, 0.1, 0.1])
    sample = judge(tally, 0, Counter(), [5.0, 6.0, 7.0, 8.0], 1.0)

    assert sample.numbers["p50_ms"] == 5000.0
    assert sample.numbers["p99_ms"] == 8000.0


def test_felt_lag_has_the_looks_that_could_not_take_place():
    """A loop that stands still for 10 ms keeps a call waiting that comes after 4 ms, too."""
    felt = felt_s([0.0, 0.010], 0.004)

    assert felt == pytest.approx([0.0, 0.010, 0.006, 0.002])


def test_calls_are_sorted_by_who_answered_and_how_often_was_tried():
    """A call that went to the second endpoint at once says nothing of a failover."""
    times = Times()
    for reply in (_reply("first", 1), _reply("second", 2), _reply("second", 1)):
        sort(PAIR, reply, times)

    assert (len(times.healthy_s), len(times.rescued_s)) == (1, 1)


def test_calls_that_failed_have_no_time():
    """A quick error does not make failover quick."""
    times = Times()
    sort(PAIR, _reply("second", 2, "status 500"), times)

    assert not times.rescued_s
    assert times.errors == {"status 500": 1}


def test_added_time_is_that_over_a_healthy_call():
    """The base is taken in the same run, between the faults."""
    times = Times(healthy_s=[0.001, 0.002], rescued_s=[0.251])

    assert times.numbers()["added_p50_ms"] == pytest.approx(250.0)


def test_arrivals_are_the_same_in_each_run_and_as_many_as_asked_for():
    """Poisson, with a fixed seed: variants get the same calls at the same times."""
    gaps = [Arrivals(1, chat("m", stream=False), rate=40.0).gap_s() for _ in range(2)]
    load = Arrivals(1, chat("m", stream=False), rate=40.0)
    mean_s = sum(load.gap_s() for _ in range(4000)) / 4000

    assert gaps[0] == gaps[1]
    assert mean_s == pytest.approx(1 / 40.0, rel=0.1)


def test_gateway_is_told_its_servers_and_further_settings(tmp_path: Path):
    """The file is JSON, which is YAML."""
    servers = [fleet.server(8001, "north")]
    system = fleet.gateway("first", tmp_path, "g", servers, {"admission": {"wait_s": 1}})
    tree = json.loads(next(tmp_path.iterdir()).read_text())

    assert tree["vllm"]["servers"] == servers
    assert tree["admission"] == {"wait_s": 1}
    assert tree["http"]["listen"].endswith(f":{system.ports['http']}")


def test_engine_has_a_sweet_spot_only_where_it_is_told_one():
    """The steady engine shows what the assumed crowding adds."""
    wanted = {"a": fleet.SimulatedEngine("m"), "b": fleet.SimulatedEngine("m", sweet_spot=8)}
    steady, crowded = fleet.engines("first", wanted).commands

    assert "--sweet-spot" not in steady
    assert "--crowding-ratio" in crowded


async def test_caller_dials_again_after_its_connection_was_reset():
    """One failed call costs no later one."""
    async with Simulator(SimulatorSettings(models=("m",))) as sim:
        caller = Caller(sim.port, chat("m", stream=False))
        sim.faults.add(Refuse(), path=CHAT)
        lost, right = await caller.call(), await caller.call()
        caller.close()

    assert lost.fault
    assert not right.fault


async def test_caller_tells_an_error_status_as_fault():
    """Whatever is not a right answer has no time worth counting."""
    async with Simulator(SimulatorSettings(models=("m",))) as sim:
        caller = Caller(sim.port, chat("m", stream=False))
        sim.faults.add(ErrorStatus(status=500))
        reply = await caller.call()
        caller.close()

    assert reply.fault == "status 500"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_pair_is_healthy_again_after_its_fault(kind):
    """A fault ends when it is told to, so that the outage's end is known."""
    async with Pair(kind, "call") as pair:
        await pair.fail()
        await pair.recover()
        caller = Caller(pair.primary.port, chat(pair.model, stream=False))
        reply = await caller.call()
        caller.close()

    assert not reply.fault
