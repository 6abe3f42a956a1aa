"""Settings: one file and the environment become one frozen, validated tree.

The only module that reads the environment. Secrets are named in the file and stand in the
environment or in a file of their own, never in the settings file itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import pydantic
import yaml
from pydantic import ConfigDict, Field, PrivateAttr

from first_core.errors import SettingsError
from first_core.types import Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Section(pydantic.BaseModel):
    """One part of the settings. The text under a field is its documentation."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True
    )

    @classmethod
    def defaults(cls, environ: Mapping[str, str], *, has_file: bool) -> dict[str, Any]:  # noqa: ARG003
        """Return values for keys that the file does not set.

        Args:
            environ: The environment.
            has_file: Whether there is a settings file. Without one a plugin may look for what is
                there, for example known API keys.
        """
        return {}

    def needs_one_process(self) -> str:
        """Return what several workers would do twice, for a person; empty: they may share it."""
        return ""


class Secret(Section):
    """Where a secret stands: exactly one of `env` and `file`. Never the secret itself."""

    env: str | None = None
    """Name of the environment variable that holds it."""
    file: Path | None = None
    """Path of the file that holds it; white space around it is dropped."""
    _value: str = PrivateAttr(default="")

    def model_post_init(self, _context: object) -> None:
        """Read the secret.

        Raises:
            ValueError: It is not there, or not exactly one place is named.
        """
        if (self.env is None) == (self.file is None):
            raise ValueError("name exactly one of `env` and `file`")
        if self.env is not None:
            value = os.environ.get(self.env, "")
            place = f"environment variable {self.env}"
        else:
            value, place = _read_secret_file(self.file), f"file {self.file}"
        if not value:
            raise ValueError(f"{place} is not set or empty")
        self._value = value

    def reveal(self) -> str:
        """Return the secret; hand it to the wire and to nothing else."""
        return self._value


def environment(patterns: Iterable[str]) -> dict[str, str]:
    """Return the variables whose names fit one of `patterns`, for a process that is started.

    Args:
        patterns: Names; `*` stands for anything.
    """
    wanted = tuple(patterns)
    return {
        name: value
        for name, value in os.environ.items()
        if any(fnmatchcase(name, pattern) for pattern in wanted)
    }


def _read_secret_file(path: Path | None) -> str:
    try:
        return path.read_text(encoding="utf-8").strip() if path else ""
    except OSError as exc:
        raise ValueError(f"file {path}: {exc.strerror}") from exc


class GrpcSettings(Section):
    """The router's gRPC server."""

    listen: str | None = "127.0.0.1:50051"
    """Address as `host:port` or `unix:path`; `null` turns it off."""
    max_message_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    """Largest message, in bytes. Must exceed `limits.max_body_bytes`."""


class LimitSettings(Section):
    """Bounds on what a call may bring."""

    max_body_bytes: int = Field(default=20 * 1024 * 1024, ge=1024)
    """Largest body of a call, in bytes."""
    max_answer_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Largest answer that is not streamed, in bytes."""
    max_event_bytes: int = Field(default=16 * 1024 * 1024, ge=1024)
    """Largest single event of a stream, in bytes."""


class TimeoutSettings(Section):
    """Bounds of one attempt, in seconds; `null` means none."""

    connect_s: float = Field(default=5.0, gt=0)
    """Longest wait for a connection to an upstream, TLS included."""
    first_chunk_s: float | None = Field(default=600.0, gt=0)
    """Longest wait for the first byte of an answer."""
    idle_s: float | None = Field(default=300.0, gt=0)
    """Longest silence between two chunks of a stream."""
    total_s: float | None = Field(default=None, gt=0)
    """Longest whole call. Off, since a healthy stream may last for hours."""

    def bounds(self) -> Timeouts:
        """Return the values as the domain knows them."""
        return Timeouts(self.connect_s, self.first_chunk_s, self.idle_s, self.total_s)


class TargetSettings(Section):
    """Some endpoints of a federated model; what is not set matches all."""

    cluster: str | None = None
    """Only this cluster."""
    framework: str | None = None
    """Only this framework."""
    model: str | None = None
    """What these endpoints call the model. Default: the model's own name."""
    replica: str | None = None
    """Only this server."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the calls, for policies that look at weights."""


class ModelSettings(Section):
    """One model as clients ask for it, over endpoints that may call it otherwise."""

    name: str = Field(min_length=1)
    """What clients ask for."""
    aliases: list[str] = []
    """Further names of it."""
    policy: str | None = None
    """Name of a routing policy. Default: `routing.policy`."""
    targets: list[TargetSettings] = []
    """Endpoints that serve it, in order of preference. Default: all that have its name."""
    fallbacks: list[str] = []
    """Models that may answer when nothing else can, in order; the answer names the one that did.
    A prompt too long for this model goes only to one with a larger context window."""


class RoutingSettings(Section):
    """Which endpoint gets a call."""

    policy: str = "first"
    """Routing policy of models that name none: `first`, `least_loaded`, `weighted`, `round_robin`,
    `latency`, `affinity`, or one that a plugin brings."""
    models: list[ModelSettings] = []
    """Models with settings of their own. Others are routed over all endpoints with their name."""


class EndpointSettings(Section):
    """Settings of the endpoints that match; what is not set matches all. The first match counts."""

    cluster: str | None = None
    """Only this cluster."""
    framework: str | None = None
    """Only this framework."""
    model: str | None = None
    """Only this model."""
    max_in_flight: Annotated[int, Field(ge=1)] | Literal["auto"] | None = "auto"
    """Most calls in flight. `auto` follows what the engine tells of waiting calls, or the time to
    the first chunk; `null` sets no bound."""
    timeouts: TimeoutSettings | None = None
    """Bounds of one attempt. Default: `timeouts`."""


class ResilienceSettings(Section):
    """What happens when an attempt fails."""

    max_attempts: int = Field(default=4, ge=1, le=20)
    """Most attempts of one call, over all endpoints and fallback models."""
    retry_ratio: float = Field(default=0.2, ge=0, le=1)
    """Further attempts that each call earns, so that retries never multiply an outage. Ten a second
    are free."""
    same_endpoint_wait_s: float = Field(default=0.25, ge=0)
    """Mean wait before the same endpoint is asked again, where no other one is left."""
    longest_retry_after_s: float = Field(default=5.0, ge=0)
    """A longer `Retry-After` of an upstream is told to the client instead of waited for."""
    continuation: bool = True
    """Whether a stream that breaks goes on at another endpoint of the same model, from the text
    that was sent, where that endpoint can do so exactly."""
    hedge: bool = False
    """Whether a plain call that takes longer than 95 of 100 others is also sent to a second
    endpoint. The first answer wins, the other call is cancelled."""


class AdmissionSettings(Section):
    """Who waits, and for how long, when a model is full or not ready."""

    wait_s: float = Field(default=30.0, ge=0)
    """Longest wait for room at a model that is ready and full, for calls that do not say it."""
    cold_wait_s: float = Field(default=0.0, ge=0)
    """Longest wait for a model that is not ready yet, for calls that do not say it."""
    max_wait_s: float = Field(default=3600.0, ge=0)
    """Longest wait that a call may ask for."""
    max_queue: int = Field(default=1000, ge=0)
    """Most calls that wait for one endpoint."""
    progress_s: float = Field(default=5.0, gt=0)
    """How often a call that waits is told where it stands."""
    tenant_weights: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Share of each tenant while calls wait. Default: 1."""


class TelemetrySettings(Section):
    """Traces and metrics."""

    otlp_endpoint: str | None = None
    """Target of an OTLP receiver over gRPC, for example `http://127.0.0.1:4317`. Unset: no span
    leaves the process."""
    sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of calls that are traced where the caller did not decide; 0 to 1."""
    service_name: str = "first-gateway"
    """`service.name` of the spans."""
    metrics_listen: str | None = None
    """Address for `/metrics` of a router that has no HTTP front, as `host:port`; unset: none."""


class LogSettings(Section):
    """Logs: JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level that is written."""
    calls: bool = False
    """Whether each call that ends well writes a line too; failed ones always do."""
    format: Literal["json", "text"] = "json"
    """`text` is for a person at a terminal."""


class ReloadSettings(Section):
    """When the settings file is read again. SIGHUP always does it."""

    watch: bool = False
    """Whether a change of the file is noticed by itself."""
    watch_interval_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks at the file."""


class PluginsSettings(Section):
    """Which plugins may load."""

    allow: list[str] | None = None
    """Names of entry points in the group `first.plugins`. Unset: all that are installed."""


class CoreSettings(Section):
    """The sections that every router has."""

    grpc: GrpcSettings = GrpcSettings()
    """The router's gRPC server."""
    limits: LimitSettings = LimitSettings()
    """Bounds on what a call may bring."""
    timeouts: TimeoutSettings = TimeoutSettings()
    """Bounds of one attempt."""
    routing: RoutingSettings = RoutingSettings()
    """Which endpoint gets a call."""
    endpoints: list[EndpointSettings] = []
    """Settings of some endpoints."""
    resilience: ResilienceSettings = ResilienceSettings()
    """What happens when an attempt fails."""
    admission: AdmissionSettings = AdmissionSettings()
    """Who waits, and for how long."""
    telemetry: TelemetrySettings = TelemetrySettings()
    """Traces and metrics."""
    log: LogSettings = LogSettings()
    """Logs."""
    plugins: PluginsSettings = PluginsSettings()
    """Which plugins may load."""
    reload: ReloadSettings = ReloadSettings()
    """When the settings file is read again."""
    drain_s: float = Field(default=30.0, ge=0)
    """How long a stop waits for calls in flight, in seconds; then they end in an error."""
    forward_headers: list[str] = [
        "anthropic-beta",
        "anthropic-version",
        "openai-beta",
        "x-alcf-session-id",
    ]
    """Headers of the client that upstreams may see, lower case. A credential never passes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole tree."""

    core: CoreSettings
    """What every router has."""
    sections: dict[str, Section]
    """What plugins offered, by key."""
    source: Path | None
    """The file it came from; `None`: there was none."""


class _WholeFile(CoreSettings):
    """The whole file: the core's sections and those of plugins."""

    # Its fields bring their descriptions; looking for them would read this file at each load.
    model_config = ConfigDict(use_attribute_docstrings=False)


def settings_model(sections: Mapping[str, type[Section]]) -> type[CoreSettings]:
    """Return the model of the whole file: the core's sections and those of plugins."""
    fields: dict[str, Any] = {
        key: (model, Field(default_factory=model, description=(model.__doc__ or "").strip()))
        for key, model in sections.items()
    }
    return pydantic.create_model("FirstSettings", __base__=_WholeFile, **fields)


def plugin_allow_list(path: Path | None) -> list[str] | None:
    """Return `plugins.allow` of a file, before any plugin is loaded.

    Raises:
        SettingsError: The file cannot be read, or is no mapping.
    """
    values = _File(path).values
    section = values.get("plugins") or {}
    allow = section.get("allow") if isinstance(section, dict) else None
    return [str(name) for name in allow] if isinstance(allow, list) else None


def load_settings(path: Path | None, sections: Mapping[str, type[Section]]) -> Settings:
    """Read and validate the settings.

    Args:
        path: The file; `None` means there is none.
        sections: Models of the plugins' sections, by key.

    Raises:
        SettingsError: One line per fault: key, place, what is allowed.
    """
    file = _File(path)
    values = dict(file.values)
    for key, model in sections.items():
        given = values.get(key, {})
        if isinstance(given, dict) or given is None:
            found = model.defaults(os.environ, has_file=path is not None)
            values[key] = {**found, **(given or {})}
    model = settings_model(sections)
    try:
        tree = model.model_validate(values)
    except pydantic.ValidationError as exc:
        raise SettingsError(_explain(exc, file, model)) from None
    return Settings(core=tree, sections={key: getattr(tree, key) for key in sections}, source=path)


class _File:
    """A settings file with the line of each key."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self._lines: dict[tuple[str | int, ...], int] = {}
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            values = yaml.safe_load(text)
        except OSError as exc:
            raise SettingsError(f"{path}: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise SettingsError(f"{path}: not UTF-8 text") from exc
        except yaml.YAMLError as exc:
            mark = getattr(exc, "problem_mark", None)
            line = f":{mark.line + 1}" if mark else ""
            problem = getattr(exc, "problem", None) or "not readable"
            raise SettingsError(f"{path}{line}: not valid YAML: {problem}") from exc
        if values is None:
            return
        if not isinstance(values, dict):
            raise SettingsError(f"{path}:1: must be a mapping of sections")
        self.values = values
        self._mark(root, ())

    def _mark(self, node: yaml.Node | None, path: tuple[str | int, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                child = (*path, str(key.value))
                self._lines[child] = key.start_mark.line + 1
                self._mark(value, child)
        elif isinstance(node, yaml.SequenceNode):
            for index, value in enumerate(node.value):
                self._lines[(*path, index)] = value.start_mark.line + 1
                self._mark(value, (*path, index))

    def place(self, loc: tuple[str | int, ...]) -> str:
        """Return `file:line` of the deepest part of `loc` that the file has."""
        for end in range(len(loc), 0, -1):
            line = self._lines.get(loc[:end])
            if line is not None:
                return f"{self.path}:{line}"
        return str(self.path) if self.path else "defaults"


def _explain(exc: pydantic.ValidationError, file: _File, model: type[CoreSettings]) -> str:
    return "\n".join(
        f"{file.place(error['loc'])}: {_key(error['loc'])}: {_fault(error, model)}"
        for error in exc.errors(include_url=False, include_context=True, include_input=False)
    )


def _key(loc: tuple[str | int, ...]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _fault(error: Any, model: type[CoreSettings]) -> str:
    if error["type"] != "extra_forbidden":
        return str(error["msg"]).removeprefix("Value error, ")
    allowed = _allowed_keys(model, error["loc"][:-1])
    hint = f"; allowed here: {', '.join(allowed)}" if allowed else ""
    return f"unknown key{hint}"


def _allowed_keys(model: type[pydantic.BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the section at `loc` has."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in loc:
        node = _resolve(node, schema)
        node = node.get("items", {}) if isinstance(part, int) else node["properties"].get(part, {})
    return sorted(_resolve(node, schema).get("properties", {}))


def _resolve(node: Any, schema: Any) -> Any:
    """Follow `$ref`, and the first branch of a choice that is an object."""
    for branch in node.get("anyOf", []):
        if "$ref" in branch or "properties" in branch or "items" in branch:
            node = branch
            break
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen: `host` and `port`, or the path of a unix socket."""

    host: str
    port: int
    unix: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `host:port`, `[v6]:port` or `unix:path`.

        Raises:
            SettingsError: It is none of these.
        """
        if text.startswith("unix:"):
            return cls("", 0, text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004
            raise SettingsError(f"{text!r} is no address; write host:port or unix:path")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return bool(self.unix) or self.host in {"localhost", "::1"} or self.host.startswith("127.")


def require_loopback(address: ListenAddress) -> None:
    """Refuse an address that others can reach, since no authenticator is configured.

    Raises:
        SettingsError: The address is not a loopback one.
    """
    if not address.is_loopback:
        raise SettingsError(
            f"{address.host}:{address.port}: without an authenticator the gateway listens on "
            "loopback only; put a proxy that authenticates in front of it"
        )
