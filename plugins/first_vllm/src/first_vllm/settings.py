"""The section `vllm`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from first_core.plugin.http.headers import check_header_value
from first_core.plugin.http.settings import UpstreamSettings, check_url
from first_core.plugin.operations import OperationName
from first_core.settings import Secret, Section
from first_vllm.managed_settings import ManagedSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_VARIABLE: Final = "LOCAL_VLLM_URL"
"""Environment variable with the URL of one server, as today's FIRST reads it."""

USUAL_URL: Final = "http://127.0.0.1:8000"
"""Where `vllm serve` listens by default, on this machine."""


class ServerSettings(Section):
    """One vLLM server, or another that speaks its routes."""

    url: str
    """Base URL, with or without `/v1` at its end."""
    cluster: str = Field(default="local", min_length=1)
    """Cluster that the server is on."""
    framework: str = Field(default="vllm", min_length=1)
    """Serving software, as clients name it in paths."""
    name: str = ""
    """Name of the replica. Unset: `host:port` where several servers share cluster and framework,
    else none."""
    api_key: Secret | None = None
    """Credential that the server asks for (`vllm serve --api-key`)."""
    probe_interval_s: float = Field(default=1.0, gt=0, le=3600)
    """Seconds between two looks at the server's health and load."""
    probe_timeout_s: float = Field(default=2.0, gt=0, le=60)
    """Longest wait for each answer to such a look, in seconds. A server is down at once where it
    refuses the connection, and after three looks without an answer, since busy servers are slow."""
    operations: list[OperationName] | None = None
    """What its models can be asked. Unset: what its `/openapi.json` lists, else all."""
    continues_messages: bool = True
    """Whether it continues an unfinished assistant message exactly, as vLLM does with
    `continue_final_message`: then a chat stream that breaks elsewhere may go on here. Turn it off
    for other software, and for models whose chat template changes such a message."""
    upstream: UpstreamSettings = UpstreamSettings()
    """The HTTP client towards it."""

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return check_url(value).removesuffix("/v1")

    @field_validator("api_key")
    @classmethod
    def _check_key(cls, value: Secret | None) -> Secret | None:
        if value is not None:
            check_header_value(value.reveal())
        return value

    @property
    def address(self) -> str:
        """`host:port` of the server."""
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


class VllmSettings(Section):
    """vLLM servers: those that are already running, and those that the gateway starts."""

    servers: list[ServerSettings] = Field(default_factory=list)
    """The servers. Unset: the one that the environment variable `LOCAL_VLLM_URL` names; without
    that and without a settings file, `http://127.0.0.1:8000`, if anything answers there."""
    managed: list[ManagedSettings] = Field(default_factory=list)
    """Servers that the gateway starts, watches and stops."""

    @classmethod
    def defaults(cls, environ: Mapping[str, str], *, has_file: bool) -> dict[str, Any]:
        """Return the server that the environment names, or the usual one without a file."""
        url = environ.get(URL_VARIABLE) or ("" if has_file else USUAL_URL)
        return {"servers": [{"url": url}]} if url else {}

    @model_validator(mode="after")
    def _check_replicas(self) -> VllmSettings:
        named = Counter(
            (server.cluster, server.framework, replica)
            for server, replica in zip(self.servers, self.replicas(), strict=True)
        )
        (cluster, framework, replica), count = next(iter(named.most_common(1)), (("",) * 3, 0))
        if count > 1:
            raise ValueError(
                f"{count} servers of {cluster}/{framework} are called {replica!r}; "
                "give each a `name` of its own"
            )
        return self

    def needs_one_process(self) -> str:
        """Return why only one process may start servers."""
        return "each worker would start the `managed` servers" if self.managed else ""

    @model_validator(mode="after")
    def _check_managed(self) -> VllmSettings:
        ports = Counter(each.port for each in self.managed if each.port is not None)
        for port, count in ports.items():
            if count > 1:
                raise ValueError(f"{count} managed servers have the port {port}")
        named = Counter(
            (each.cluster, each.framework, each.model, each.name) for each in self.managed
        )
        for (cluster, framework, model, _), count in named.items():
            if count > 1:
                raise ValueError(
                    f"{count} managed servers are {cluster}/{framework}/{model}; "
                    "give each a `name` of its own"
                )
        ours = {(each.cluster, each.framework, each.name) for each in self.managed}
        for server, replica in zip(self.servers, self.replicas(), strict=True):
            if (server.cluster, server.framework, replica) in ours:
                raise ValueError(f"a managed server is called {replica!r} as {server.url} is")
        return self

    def replicas(self) -> list[str]:
        """Return each server's name as a replica, in order.

        It depends on the settings alone, never on which servers answer now, so an endpoint keeps
        its name for good.
        """
        siblings = Counter((server.cluster, server.framework) for server in self.servers)
        siblings.update((server.cluster, server.framework) for server in self.managed)
        return [
            server.name
            or (server.address if siblings[server.cluster, server.framework] > 1 else "")
            for server in self.servers
        ]
