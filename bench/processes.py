"""Processes that are measured: started on one core, read from the process table, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import http.client
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from bench.systems import PROFILES, Command, System, chat_body

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_PDEATHSIG: Final = 1
"""`prctl` option. Source: linux/prctl.h."""

READY_TIMEOUT_S: Final = 30.0
"""Longest wait from the start of a system to its first answer; a hung start must end the run."""

ASK_TIMEOUT_S: Final = 5.0
"""Longest wait for one of these answers. It blocks the loop, which has nothing else to do then."""

POLL_S: Final = 0.02
"""Pause between two tries to get the first answer: the error of a start's time."""

STOP_TIMEOUT_S: Final = 5.0
"""From SIGTERM to SIGKILL."""

_libc = ctypes.CDLL(None, use_errno=True)


class NotReadyError(Exception):
    """A system did not answer; the message says what it said instead."""


def _die_with_parent() -> None:
    """A killed bench leaves no child behind."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Running:
    """A started system."""

    def __init__(self, system: System, *, core: int, folder: Path) -> None:
        self.system = system
        self.log = folder / f"{system.name}-{time.monotonic_ns()}.log"
        self.children: list[subprocess.Popen[bytes]] = []
        self.start_s = time.perf_counter()
        with self.log.open("wb") as log, _on_core(core):
            for command in system.commands:
                self.children.append(_spawn(command, log, folder))

    def pids(self) -> list[int]:
        """Every process of the system, grandchildren included."""
        parents: dict[int, list[int]] = {}
        for entry in os.listdir("/proc"):  # noqa: PTH208 - names, many times
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    stat = Path(f"/proc/{entry}/stat").read_text()
                    parent = int(stat.rpartition(")")[2].split()[1])
                    parents.setdefault(parent, []).append(int(entry))
        found: list[int] = []
        left = [child.pid for child in self.children]
        while left:
            pid = left.pop()
            found.append(pid)
            left.extend(parents.get(pid, []))
        return sorted(found)

    async def wait_ready(self) -> float:
        """Wait for the first chat answer, then until every model is listed.

        Returns:
            Seconds from the start to the first answer.

        Raises:
            NotReadyError: A process ended, or `READY_TIMEOUT_S` passed.
        """
        call = PROFILES["call"]
        await self._wait(
            self.system.ports["call"], "/v1/chat/completions", chat_body(call.model), ""
        )
        first_answer_s = time.perf_counter() - self.start_s
        for name, profile in PROFILES.items():
            await self._wait(self.system.ports[name], "/v1/models", None, profile.model)
        return first_answer_s

    async def wait_model(self, port: int, model: str) -> None:
        """Wait until `port` answers a chat call to `model`.

        Raises:
            NotReadyError: As `wait_ready`.
        """
        await self._wait(port, "/v1/chat/completions", chat_body(model), "")

    async def _wait(self, port: int, path: str, body: bytes | None, wanted: str) -> None:
        """Until `path` answers 200 with `wanted` in the body."""
        status, said = 0, "nothing"
        while time.perf_counter() - self.start_s < READY_TIMEOUT_S:
            for child in self.children:
                if child.poll() is not None:
                    raise NotReadyError(self._story(f"it ended with {child.returncode}"))
            try:
                status, said = _ask(port, path, body)
            except (OSError, http.client.HTTPException) as exc:
                status, said = 0, repr(exc)
            if status == 200 and wanted in said:
                return
            await asyncio.sleep(POLL_S)
        raise NotReadyError(self._story(f"{path} is not as hoped: {status} {said[:300]}"))

    def _story(self, what: str) -> str:
        tail = self.log.read_text(errors="replace").splitlines()[-15:]
        return "\n".join([f"{self.system.name}: {what}", *tail])

    def stop(self) -> None:
        """End every process: asked first, then killed. May be called twice."""
        for child in self.children:
            _signal(child, signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.01, deadline_s - time.monotonic()))
            # The group outlives its leader if a child of it hangs.
            _signal(child, signal.SIGKILL)
            child.wait()


def _spawn(command: Command, log: IO[bytes], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=folder,
        start_new_session=True,  # Ctrl-C reaches the bench alone, which then stops in order
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - there are no threads here
    )


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def _on_core(core: int) -> Iterator[None]:
    """Children started inside inherit the core."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _ask(port: int, path: str, body: bytes | None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_S)
    try:
        headers = {"content-type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def cpu_s(pids: list[int]) -> float:
    """User and system time of all threads, dead ones included, in seconds.

    The process's CPU clock: the figure behind utime and stime of `/proc/PID/stat`, but in
    nanoseconds instead of ticks of 10 ms. Clock id: MAKE_PROCESS_CPUCLOCK in the kernel's
    include/linux/posix-timers.h, with CPUCLOCK_SCHED = 2.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def resident_mb(pids: list[int]) -> float:
    """VmRSS summed, in MB of 10^6 bytes. Pages that processes share count once for each."""
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024 / 1e6


def core_busy_s(core: int) -> float:
    """Seconds that a core did anything, time stolen by the host included (ticks of 10 ms)."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(int, line.split()[1:])
            busy = user + nice + system + irq + softirq + steal
            return busy / os.sysconf("SC_CLK_TCK")
    return 0.0


class Others:
    """How much of a core others use from now on."""

    def __init__(self, core: int, pids: list[int]) -> None:
        self._core = core
        self._pids = pids
        self._begin = self._look()

    def _look(self) -> tuple[float, float, float]:
        return time.perf_counter(), core_busy_s(self._core), cpu_s(self._pids)

    def ratio(self) -> float:
        """Share of the core, 0 to 1, that somebody else than `pids` has used since."""
        wall_s, busy_s, own_s = (
            now - then for now, then in zip(self._look(), self._begin, strict=True)
        )
        return max(0.0, (busy_s - own_s) / wall_s)


def raise_file_limit() -> int:
    """Open files as many as allowed, here and in all children; how many that is."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
