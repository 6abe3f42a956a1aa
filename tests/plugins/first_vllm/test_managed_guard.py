"""The guard leaves nothing of its command behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from first_vllm import guard

BOUND_S = 20.0

# Each child says who it is once it is up, so that nothing is asked of it too early.
CALM = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
STUBBORN = (
    "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print(os.getpid(), flush=True)\nwhile True: signal.pause()"
)
PARENT = (
    "import subprocess, sys;"
    "subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True).wait()"
)


def start(*command, grace_s="5"):
    return subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__, grace_s, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def end(process):
    """Close the pipe; returns the exit code and what was written since."""
    rest, _ = process.communicate(timeout=BOUND_S)
    return process.returncode, rest


def test_guard_ends_its_command_when_the_pipe_closes():
    """The owner that goes, however it goes, closes the pipe."""
    process = start(sys.executable, "-c", CALM)
    pid = int(process.stdout.readline())

    code, _ = end(process)

    assert code == 128 + signal.SIGTERM
    assert is_gone(pid)


def test_guard_kills_a_command_that_ignores_the_request():
    """After its grace a stubborn command is killed."""
    process = start(sys.executable, "-c", STUBBORN, grace_s="0.1")
    pid = int(process.stdout.readline())

    code, _ = end(process)

    assert code == 128 + signal.SIGKILL
    assert is_gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans come to the guard on Linux only")
def test_guard_kills_who_left_the_group():
    """A grandchild in a session of its own ends too, when its parent dies first."""
    process = start(sys.executable, "-c", PARENT, STUBBORN, grace_s="0.1")
    pid = int(process.stdout.readline())

    end(process)

    assert is_gone(pid)


def test_guard_kills_the_rest_when_its_command_dies():
    """Workers of a server that crashed do not keep its memory."""
    leader = (
        "import subprocess, sys;"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE);"
        "print(child.stdout.readline().decode().strip(), flush=True); sys.exit(3)"
    )
    process = start(sys.executable, "-c", leader, STUBBORN)
    pid = int(process.stdout.readline())
    process.wait(timeout=BOUND_S)

    assert is_gone(pid)
    assert end(process)[0] == 3


def test_guard_tells_the_exit_code():
    """How the command ended is known to the owner."""
    process = start(sys.executable, "-c", "import sys; print('bye'); sys.exit(7)")
    process.wait(timeout=BOUND_S)

    assert end(process) == (7, b"bye\n")


def test_guard_tells_the_signal():
    """A command that was killed is told from one that gave up."""
    process = start(sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    process.wait(timeout=BOUND_S)

    assert end(process)[0] == 128 + signal.SIGKILL


def test_guard_tells_that_there_is_no_command():
    """The message names the program."""
    process = start("no-such-program-here")
    process.wait(timeout=BOUND_S)

    assert end(process) == (
        guard.NOT_FOUND,
        b"no-such-program-here: No such file or directory\n",
    )


def test_guard_that_is_told_to_end_ends_its_command():
    """A signal to the guard is as good as the pipe."""
    process = start(sys.executable, "-c", CALM)
    pid = int(process.stdout.readline())

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=BOUND_S)

    assert is_gone(pid)
    end(process)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_command_ends_with_a_guard_that_was_killed():
    """Even a killed guard leaves no server behind."""
    process = start(sys.executable, "-c", CALM)
    process.stdout.readline()

    process.kill()

    assert process.stdout.read() == b""  # the end of the output: whoever could write is gone
    end(process)


def test_command_has_no_standard_input():
    """The command cannot take what is meant for the guard."""
    process = start(sys.executable, "-c", "import sys; print(repr(sys.stdin.read()))")
    process.wait(timeout=BOUND_S)

    assert end(process)[1] == b"''\n"
