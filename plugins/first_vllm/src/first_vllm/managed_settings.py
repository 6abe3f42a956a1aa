"""Settings of servers that the gateway starts itself."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import Field, field_validator, model_validator

from first_core.plugin.http.headers import check_header_value
from first_core.plugin.http.settings import UpstreamSettings
from first_core.plugin.operations import OperationName
from first_core.settings import Secret, Section, environment

INHERITED: Final = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_*", "TZ", "TMPDIR", "XDG_*",
    "LD_LIBRARY_PATH", "VIRTUAL_ENV", "CONDA_*", "SSL_CERT_*", "*_proxy", "*_PROXY",
    "CUDA_*", "NVIDIA_*", "NCCL_*", "ROCM_*", "HIP_*", "HSA_*", "ROCR_*", "ZE_*", "ONEAPI_*",
    "HF_*", "HUGGINGFACE_*", "VLLM_*", "TORCH*", "TRITON_*", "OMP_*", "MKL_*",
]  # fmt: skip
"""What a server needs of the gateway's environment. Keys of other services are not among it."""

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ManagedSettings(Section):
    """One server that the gateway starts, watches and stops."""

    model: str = Field(min_length=1)
    """Name that the model is served under."""
    model_path: str | None = None
    """Where the model is: a folder, or its name on Hugging Face. Default: `model`."""
    command: Annotated[list[str], Field(min_length=1)] | None = None
    """Command to run; it must stay in the foreground. Default: `vllm serve` on a loopback address.
    `{port}`, `{model}` and `{model_path}` are filled in, here and in `args`."""
    args: list[str] = Field(default_factory=list)
    """Further arguments, for example `["--max-model-len", "8192"]`. Never a secret: other users of
    the machine can see them."""
    environment: dict[str, str | int | Secret] = Field(default_factory=dict)
    """Variables for the server, which hides those that are secrets from everyone else."""
    inherit: list[str] = Field(default_factory=lambda: list(INHERITED))
    """Variables of the gateway's own environment that the server gets; `*` stands for anything.
    The default leaves out what other services' keys are called."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the server. Default: a free one at each start."""
    cluster: str = Field(default="local", min_length=1)
    """Cluster that it counts as being on."""
    framework: str = Field(default="vllm", min_length=1)
    """Serving software, as clients name it in paths."""
    name: str = ""
    """Name of the replica, where several servers share cluster, framework and model."""
    api_key: Secret | None = None
    """Credential that the server shall ask for, so that nobody else on this machine can use it.
    It is handed over as `VLLM_API_KEY`."""
    start: Literal["always", "on_demand"] = "on_demand"
    """`always`: with the gateway. `on_demand`: when the first call waits for it."""
    start_timeout_s: float = Field(default=900.0, gt=0)
    """Longest wait until it is ready, in seconds."""
    idle_stop_s: float | None = Field(default=None, gt=0)
    """Seconds without a call after which it is stopped, to be started again on demand; `null`:
    never."""
    sleep: bool = False
    """Put it to sleep instead of stopping it, where it can: vLLM frees its GPU memory and is back
    within seconds. Needs `idle_stop_s`, and memory for the weights."""
    restart_min_s: float = Field(default=1.0, gt=0)
    """Pause before it is started again after it died, in seconds. It doubles each time."""
    restart_max_s: float = Field(default=300.0, gt=0)
    """Longest such pause, and the usual one for a server that dies at once again and again."""
    stop_grace_s: float = Field(default=10.0, gt=0)
    """Seconds from asking it to end (SIGTERM) to killing it and all that it started."""
    log_lines: int = Field(default=200, ge=1, le=100_000)
    """Last lines of its output that are kept, and logged when it fails."""
    probe_interval_s: float = Field(default=1.0, gt=0, le=3600)
    """Seconds between two looks at its health and load."""
    operations: list[OperationName] | None = None
    """What it can be asked. Unset: what it lists itself once it runs; all before that."""
    continues_messages: bool = True
    """As `vllm.servers[].continues_messages`."""
    upstream: UpstreamSettings = UpstreamSettings()
    """The HTTP client towards it."""

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: Secret | None) -> Secret | None:
        if value is not None:
            check_header_value(value.reveal())
        return value

    @model_validator(mode="after")
    def _check(self) -> ManagedSettings:
        if self.sleep and self.idle_stop_s is None:
            raise ValueError("`sleep` needs `idle_stop_s`, the time after which it sleeps")
        if self.restart_min_s > self.restart_max_s:
            raise ValueError("`restart_min_s` is longer than `restart_max_s`")
        wrong = [name for name in self.environment if not _NAME.fullmatch(name)]
        if wrong:
            raise ValueError(f"environment: {wrong[0]!r} is no name of a variable")
        if self.port is None and self.command and not self._names_port():
            raise ValueError("the command has no {port}, so the gateway must be told its `port`")
        return self

    def _names_port(self) -> bool:
        values = [*(self.command or ()), *self.args, *self.environment.values()]
        return any("{port}" in value for value in values if isinstance(value, str))

    def argv(self, port: int) -> list[str]:
        """Return the command with its arguments."""
        return [self._fill(word, port) for word in [*(self.command or self._usual()), *self.args]]

    def _usual(self) -> list[str]:
        command = ["vllm", "serve", "{model_path}", "--served-model-name", "{model}"]
        command += ["--host", "127.0.0.1", "--port", "{port}"]
        return [*command, "--enable-sleep-mode"] if self.sleep else command

    def _fill(self, text: str, port: int) -> str:
        # Not `str.format`: arguments may hold JSON, whose braces mean themselves.
        text = text.replace("{port}", str(port)).replace(
            "{model_path}", self.model_path or "{model}"
        )
        return text.replace("{model}", self.model)

    def environ(self, port: int) -> dict[str, str]:
        """Return all variables that the server gets."""
        found = environment(self.inherit)
        found.pop("VLLM_API_KEY", None)  # it would ask us for what we were not told
        if self.sleep:
            found["VLLM_SERVER_DEV_MODE"] = "1"  # vLLM has the routes for sleep in this mode only
        if self.api_key is not None:
            found["VLLM_API_KEY"] = self.api_key.reveal()
        for name, value in self.environment.items():
            found[name] = (
                value.reveal() if isinstance(value, Secret) else self._fill(str(value), port)
            )
        return found

    def secrets(self) -> list[str]:
        """Return what must not show in any log."""
        values = [*self.environment.values(), self.api_key]
        return [value.reveal() for value in values if isinstance(value, Secret)]
