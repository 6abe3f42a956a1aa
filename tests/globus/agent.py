"""A real `globus-compute-endpoint` agent, in an environment of its own, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cloud import Cloud

ENVIRONMENT_VARIABLE: Final = "FIRST_TEST_GLOBUS_AGENT"
"""Names a virtual environment that has the agent; by default one is made in the cache folder."""

REQUIREMENTS: Final = ("globus-compute-endpoint==4.19.0", "globus-compute-sdk==4.19.0")

_CONFIG: Final = """\
display_name: FIRST test
local_compute_services: true
heartbeat_period: 5
{allowed}"""

_TEMPLATE: Final = """\
heartbeat_period: 5
idle_heartbeats_soft: 0
engine:
  type: ThreadPoolEngine
  max_workers: 16
"""


def agent_environment() -> Path:
    """Return the virtual environment of agents; makes it on the first use, which takes minutes."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "/var/tmp")) / "first-globus-agent-4.19.0"  # noqa: S108
    if not (cache / "bin" / "globus-compute-endpoint").exists():
        # As root the agent runs as another user, who must be able to read the interpreter too.
        python = "/usr/bin/python3" if os.geteuid() == 0 else sys.executable
        subprocess.run([python, "-m", "venv", "--without-pip", cache], check=True)
        pip = [sys.executable, "-m", "pip", "--python", cache, "install", "-q"]
        subprocess.run([*pip, *REQUIREMENTS], check=True)
    return cache


class AgentProcess:
    """One agent; `start` returns once the process runs, not once it is online."""

    def __init__(self, cloud: Cloud, home: Path, environ: dict[str, str]) -> None:
        self.id = str(uuid.uuid4())
        self._cloud = cloud
        self._home = home
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self.allowed: list[str] | None = None

    @property
    def log(self) -> Path:
        return self._home / "agent.log"

    def start(self) -> None:
        directory = self._home / "test"
        directory.mkdir(parents=True, exist_ok=True)
        allowed = f"allowed_functions: {self.allowed}\n" if self.allowed is not None else ""
        (directory / "config.yaml").write_text(_CONFIG.format(allowed=allowed))
        (directory / "user_config_template.yaml.j2").write_text(_TEMPLATE)
        if not (directory / "endpoint.json").exists():
            (directory / "endpoint.json").write_text(f'{{"endpoint_id": "{self.id}"}}')
        (directory / "daemon.pid").unlink(missing_ok=True)
        self._hand_over()
        binary = agent_environment() / "bin" / "globus-compute-endpoint"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_unprivileged(), str(binary), "start", "test"],
                env=self._environment(),
                cwd=self._home,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{agent_environment() / 'bin'}:/usr/bin:/bin",
            "HOME": str(self._home),
            "GLOBUS_COMPUTE_USER_DIR": str(self._home),
            "GLOBUS_COMPUTE_CLIENT_ID": self._cloud.client_id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": self._cloud.client_secret,
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{self._cloud.url}/",
            **self._environ,
        }

    def _hand_over(self) -> None:
        if os.geteuid() != 0:
            return
        user = pwd.getpwnam("nobody")
        for path in (self._home, *self._home.rglob("*")):
            shutil.chown(path, user.pw_uid, user.pw_gid)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
        self._process = None


def _unprivileged() -> list[str]:
    if os.geteuid() != 0:
        return []
    return [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--",
    ]
