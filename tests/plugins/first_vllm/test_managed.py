"""Servers that the backend starts itself, in the machine's time."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from first_core.clock import SystemClock
from first_core.errors import BackendError, EndpointColdError, SettingsError
from first_core.plugin import BackendContext
from first_core.types import EndpointId, EndpointState
from first_vllm.backend import VllmBackend
from first_vllm.settings import VllmSettings

BOUND_S = 30.0
MODEL = EndpointId("local", "vllm", "llama")
FIRST = str(Path(sys.executable).with_name("first"))
SIM = [FIRST, "sim", "--port", "{port}", "--model", "{model}"]

OWN_SIM = """
import asyncio, sys
from first_core.testing.simulator import SimulatorSettings, run_simulator
{before}
asyncio.run(run_simulator(SimulatorSettings(models=(sys.argv[2],)), port=int(sys.argv[1])))
"""


def python(code, *arguments):
    """A command that runs `code`; it needs no port."""
    return [sys.executable, "-c", code, *arguments]


def own_sim(before=""):
    """A simulator that does something else first."""
    return python(OWN_SIM.format(before=before), "{port}", "{model}")


def is_in(state, reason=""):
    """A condition: the model is in that state, for a reason that has these words."""
    return lambda models: (
        "llama" in models
        and models["llama"].state is state
        and reason in models["llama"].state_reason
    )


IS_COLD = is_in(EndpointState.COLD)
IS_STARTING = is_in(EndpointState.STARTING)
IS_READY = is_in(EndpointState.READY)
IS_DOWN = is_in(EndpointState.DOWN)


class Sink:
    def __init__(self):
        self.data = b""
        self.has_begun = asyncio.Event()

    def start(self, content_type):
        del content_type

    def write(self, data):
        self.data += data
        self.has_begun.set()
        return False

    async def drain(self):
        pass


@pytest.fixture
async def manage(published):
    """Start a backend with one managed server; it is stopped after the test."""
    backends = []

    async def start(command=None, **fields):
        usual = {"probe_interval_s": 0.05, "restart_min_s": 0.05, "stop_grace_s": 5}
        managed = {"model": "llama", "command": command or SIM, **usual, **fields}
        backend = VllmBackend(VllmSettings(managed=[managed]), BackendContext(SystemClock(), None))
        backends.append(backend)
        await backend.start(published)
        return backend

    yield start
    for backend in backends:
        await backend.stop()


@pytest.fixture
def wait(published):
    """Wait for a state, within a bound."""

    async def until(condition):
        async with asyncio.timeout(BOUND_S):
            await published.wait(condition)
        return published.models["llama"]

    return until


@pytest.fixture
def pid_file(tmp_path):
    """Where a child writes its process id, and how to read it."""

    class PidFile:
        path = tmp_path / "pid"
        code = f"import os; open({str(path)!r}, 'w').write(str(os.getpid()))"

        @property
        def pid(self):
            return int(self.path.read_text())

        @property
        def is_gone(self):
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return True
            return False

    return PidFile()


def states(published):
    """The states that the model went through, each once."""
    found = []
    for reports in published.all:
        for report in reports:
            if report.id == MODEL and found[-1:] != [report.state]:
                found.append(report.state)
    return found


async def test_server_on_demand_is_cold_at_first(manage, published):
    """The model is known, and nothing runs, until a call wants it."""
    await manage()

    assert IS_COLD(published.models)
    assert published.models["llama"].served_model == "llama"


async def test_server_is_started_with_the_gateway(manage, published, wait, make_call):
    """`always` waits for no call."""
    backend = await manage(start="always")
    await wait(IS_READY)

    answer = await backend.call(make_call())

    assert b"simulated" in answer.body
    assert states(published) == [EndpointState.COLD, EndpointState.STARTING, EndpointState.READY]


async def test_call_that_waits_starts_the_server(manage, wait):
    """Waking leads to a server that is ready; what it tells of itself is known then."""
    backend = await manage()

    backend.wake(MODEL)

    report = await wait(IS_READY)
    assert report.context_window_token_count == 8192
    assert report.expected_wait_s is None


async def test_wake_of_a_server_that_starts_changes_nothing(manage, published, wait):
    """Many calls wait; the server is started once."""
    backend = await manage()
    for _ in range(3):
        backend.wake(MODEL)
    await wait(IS_STARTING)
    backend.wake(MODEL)

    await wait(IS_READY)

    assert states(published).count(EndpointState.STARTING) == 1


async def test_wake_of_an_unknown_endpoint_does_nothing(manage, published):
    """Endpoints come and go while calls wait."""
    backend = await manage()

    backend.wake(EndpointId("local", "vllm", "other"))

    assert IS_COLD(published.models)


async def test_call_to_a_cold_server_starts_nothing(manage, make_call):
    """A call that comes too late says so, and is no fault of the server."""
    backend = await manage()

    with pytest.raises(EndpointColdError):
        await backend.call(make_call())


async def test_server_that_dies_is_started_again(manage, wait, pid_file):
    """A crash is told, and over after the pause."""
    await manage(own_sim(pid_file.code), start="always", restart_min_s=0.2)
    await wait(IS_READY)
    pid = pid_file.pid

    os.kill(pid, signal.SIGKILL)

    assert (await wait(IS_DOWN)).state_reason == "it was killed by SIGKILL"
    await wait(IS_READY)
    assert pid_file.pid != pid


async def test_server_on_demand_that_dies_is_cold_again(manage, wait, pid_file):
    """Nobody waits, so nothing is started; the next call may try."""
    backend = await manage(own_sim(pid_file.code))
    backend.wake(MODEL)
    await wait(IS_READY)

    os.kill(pid_file.pid, signal.SIGKILL)

    report = await wait(is_in(EndpointState.COLD, "last time: it was killed"))
    assert report.expected_wait_s is not None


async def test_crash_amid_a_stream_is_an_error_of_the_call(manage, wait, pid_file, make_call):
    """The stream breaks, the gateway lives on, and the server comes back."""
    slow = OWN_SIM.replace("(sys.argv[2],)", "(sys.argv[2],), token_interval_s=0.05")
    backend = await manage(
        python(slow.format(before=pid_file.code), "{port}", "{model}"), start="always"
    )
    await wait(IS_READY)
    sink = Sink()
    body = b'{"model":"llama","stream":true,"messages":[{"role":"user","content":"Hi"}]}'
    streaming = asyncio.create_task(backend.stream(replace(make_call(), body=body), sink))
    await sink.has_begun.wait()

    os.kill(pid_file.pid, signal.SIGKILL)

    with pytest.raises(BackendError):
        await streaming
    await wait(IS_DOWN)
    await wait(IS_READY)


async def test_last_lines_are_told_when_the_start_fails(manage, wait, caplog):
    """The reason ends with the last line, without folders; the log has all that was kept."""
    code = "print('first line'); print('No model at /data/models/llama'); raise SystemExit(4)"
    await manage(python(code), port=18765, start="always", restart_min_s=5)

    report = await wait(IS_DOWN)

    assert report.state_reason == "it exited with 4: No model at …/llama"
    record = next(r for r in caplog.records if r.message == "managed server failed")
    assert record.lines == ["first line", "No model at /data/models/llama"]


async def test_server_that_dies_at_once_rests_longest(manage, published, wait):
    """After some failures in a row it stays down, and is tried after the longest pause."""
    await manage(python("raise SystemExit(1)"), port=18766, start="always", restart_max_s=600)
    while states(published).count(EndpointState.DOWN) < 5:
        await wait(IS_STARTING)
        await wait(IS_DOWN)

    assert states(published)[-1] is EndpointState.DOWN
    assert states(published).count(EndpointState.STARTING) == 5


async def test_slow_start_is_waited_for(manage, published, wait):
    """A server that listens late goes from starting to ready without a failure."""
    await manage(own_sim("import time; time.sleep(0.5)"), start="always")

    await wait(IS_READY)

    assert EndpointState.DOWN not in states(published)


async def test_start_that_takes_too_long_is_ended(manage, wait, pid_file):
    """A server that never gets ready is stopped, and told."""
    code = f"{pid_file.code}\nimport signal; signal.pause()"
    await manage(python(code), port=18767, start="always", start_timeout_s=0.5, restart_min_s=9)

    report = await wait(IS_DOWN)

    assert report.state_reason == "it was not ready after 0.5 s"


async def test_server_of_another_model_is_told(manage, wait):
    """A command that serves something else is a mistake of the settings."""
    command = [*SIM[:-1], "other"]
    await manage(command, start="always", restart_min_s=9)

    assert (await wait(IS_DOWN)).state_reason == "it serves other and not llama"


async def test_idle_server_is_stopped_and_starts_again(manage, published, wait, pid_file):
    """Without calls it goes; the wait that is expected then is what its start took."""
    backend = await manage(own_sim(pid_file.code), idle_stop_s=0.2)
    backend.wake(MODEL)
    await wait(IS_READY)
    report = await wait(IS_COLD)
    was_gone = pid_file.is_gone

    backend.wake(MODEL)
    await wait(IS_READY)

    assert was_gone
    assert report.expected_wait_s >= 1
    assert EndpointState.DRAINING in states(published)


async def test_server_with_a_call_in_flight_is_not_idle(manage, published, wait, make_call):
    """A long call counts as use for as long as it lasts."""
    slow = OWN_SIM.replace("(sys.argv[2],)", "(sys.argv[2],), first_token_delay_s=1.0")
    backend = await manage(python(slow.format(before=""), "{port}", "{model}"), idle_stop_s=0.3)
    backend.wake(MODEL)
    await wait(IS_READY)

    await backend.call(make_call())

    assert IS_READY(published.models)
    await wait(IS_COLD)


async def test_idle_server_sleeps_where_it_can(manage, wait, pid_file, make_call):
    """The process stays, answers no calls, and is back without a new start."""
    backend = await manage(own_sim(pid_file.code), idle_stop_s=0.2, sleep=True)
    backend.wake(MODEL)
    await wait(IS_READY)
    pid = pid_file.pid
    await wait(is_in(EndpointState.COLD, "asleep"))

    backend.wake(MODEL)
    await wait(IS_READY)
    await backend.call(make_call())

    assert pid_file.pid == pid


async def test_server_that_cannot_sleep_is_stopped(manage, wait, pid_file):
    """Older servers have no such routes."""
    code = (
        "from first_core.testing.simulator.routes import ROUTES; del ROUTES['/is_sleeping']\n"
        + pid_file.code
    )
    backend = await manage(own_sim(code), idle_stop_s=0.2, sleep=True)
    backend.wake(MODEL)
    await wait(IS_READY)

    report = await wait(IS_COLD)

    assert report.state_reason == ""
    assert pid_file.is_gone


async def test_server_that_dies_asleep_is_cold(manage, wait, pid_file):
    """Nobody used it; the next call starts it anew."""
    backend = await manage(own_sim(pid_file.code), idle_stop_s=0.2, sleep=True)
    backend.wake(MODEL)
    await wait(is_in(EndpointState.COLD, "asleep"))

    os.kill(pid_file.pid, signal.SIGKILL)

    await wait(lambda models: IS_COLD(models) and models["llama"].state_reason == "")
    backend.wake(MODEL)
    await wait(IS_READY)


@pytest.mark.parametrize("before", ["", "import signal; signal.signal(15, signal.SIG_IGN)\n"])
async def test_stop_leaves_nothing(manage, wait, pid_file, before):
    """The server is gone when stop returns, also one that ignores the request to end."""
    backend = await manage(own_sim(before + pid_file.code), start="always", stop_grace_s=0.2)
    tasks = asyncio.all_tasks()
    await wait(IS_READY)

    await backend.stop()

    assert pid_file.is_gone
    assert not [task for task in asyncio.all_tasks() - tasks if not task.done()]


async def test_stop_amid_the_start_leaves_nothing(manage, wait, tmp_path):
    """A server that is not ready yet ends too."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    code = f"import signal; out = open({str(fifo)!r}, 'w'); signal.pause()"
    backend = await manage(python(code), port=18768, start="always")
    await wait(IS_STARTING)

    await backend.stop()

    os.set_blocking(reader, True)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == ""  # its end: no writer is left


async def test_backend_starts_again_after_stop(manage, published, wait):
    """Start may follow stop."""
    backend = await manage(start="always")
    await wait(IS_READY)
    await backend.stop()
    published.all.clear()

    await backend.start(published)

    await wait(IS_READY)


async def test_port_that_is_taken_is_told(manage, wait):
    """Another server on that port is never taken for ours."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        await manage(start="always", port=port, restart_min_s=0.1)
        report = await wait(IS_DOWN)

    assert report.state_reason == f"port {port} is taken by another process"
    await wait(IS_READY)


async def test_missing_program_stops_the_start(manage):
    """A command that is not there can never work."""
    with pytest.raises(SettingsError, match="there is no program 'no-such-vllm'"):
        await manage(["no-such-vllm", "{port}"])


async def test_program_that_went_is_told(manage, wait, tmp_path):
    """A program that was there at the start and is gone later is a reason like others."""
    program = tmp_path / "serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    backend = await manage([str(program), "{port}"], restart_min_s=9)
    program.unlink()

    backend.wake(MODEL)

    assert "No such file or directory" in (await wait(IS_DOWN)).state_reason


async def test_environment_is_what_the_settings_say(manage, wait, monkeypatch, caplog):
    """The server gets its variables and the usual ones, and no other service's key; what is
    secret shows in no log."""
    monkeypatch.setenv("OPENAI_API_KEY", "of-another-service")
    monkeypatch.setenv("MY_TOKEN", "very-hidden")
    monkeypatch.setenv("VLLM_API_KEY", "for-others")
    caplog.set_level(logging.DEBUG)
    code = (
        "import os; names = ('PLAIN', 'TOKEN', 'OPENAI_API_KEY', 'VLLM_API_KEY', 'PATH')\n"
        "print(*(len(os.environ.get(name, '')) > 0 for name in names), os.environ['PLAIN'])\n"
        "print('token', os.environ['TOKEN']); raise SystemExit(1)"
    )
    environment = {"PLAIN": "port-{port}", "TOKEN": {"env": "MY_TOKEN"}}
    await manage(python(code), port=18769, start="always", restart_min_s=9, environment=environment)

    report = await wait(IS_DOWN)

    assert report.state_reason == "it exited with 1: token ***"
    record = next(r for r in caplog.records if r.message == "managed server failed")
    assert record.lines[0] == "True True False False True port-18769"
    assert "very-hidden" not in caplog.text + str([vars(r) for r in caplog.records])


async def test_key_is_handed_to_the_server_and_shown_by_calls(
    manage, wait, make_call, monkeypatch, published
):
    """A server that asks for the key serves the gateway, and nobody else."""
    monkeypatch.setenv("SITE_KEY", "key-of-this-site")
    code = OWN_SIM.replace(
        "(sys.argv[2],)", "(sys.argv[2],), api_key=__import__('os').environ['VLLM_API_KEY']"
    )
    backend = await manage(
        python(code.format(before=""), "{port}", "{model}"),
        start="always",
        api_key={"env": "SITE_KEY"},
    )
    await wait(IS_READY)

    await backend.call(make_call())

    assert "key-of-this-site" not in f"{published.all} {backend!r}"
