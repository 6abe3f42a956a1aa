"""The section `globus`."""

from __future__ import annotations

from collections import Counter
from typing import Final
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from first_core.errors import SettingsError
from first_core.plugin.http.headers import check_header_value
from first_core.plugin.http.settings import check_url
from first_core.plugin.operations import OperationName
from first_core.settings import ListenAddress, Secret, Section
from first_core.types import Operation

TASK_OPERATIONS: Final = (
    Operation.CHAT,
    Operation.COMPLETION,
    Operation.EMBEDDING,
    Operation.RESPONSE,
    Operation.MESSAGE,
    Operation.MESSAGE_TOKEN_COUNT,
    Operation.RERANK,
    Operation.SCORE,
)
"""Operations with a JSON body below `/v1/`: registered functions reach no others."""

MEBIBYTE: Final = 1024 * 1024


class StreamingSettings(Section):
    """Where functions send the chunks of streams."""

    listen: str = "127.0.0.1:0"
    """Address to listen on, as `host:port`; port 0 takes a free one in each process, for compute
    nodes on this machine. Others need a port, and a proxy with TLS in front of it that
    `public_url` names."""
    public_url: str | None = None
    """What functions are told to send to: scheme, host and port, no path. Unset: plain HTTP to the
    address that is listened on, which serves compute nodes on this machine only."""
    secret: Secret | None = None
    """What functions send as `X-Internal-Secret`; they read it from the environment variable
    `INTERNAL_STREAMING_SECRET` of their endpoint. Unset: nothing listens and nothing streams."""
    max_post_bytes: int = Field(default=4 * MEBIBYTE, ge=1024)
    """Largest body of one request, in bytes."""
    max_waiting_bytes: int = Field(default=8 * MEBIBYTE, ge=1024)
    """Most bytes of one stream that wait for its reader; further requests wait too, then fail."""
    confirm_timeout_s: float = Field(default=15.0, gt=0)
    """Longest wait at the end of a stream for what tells how many chunks there were, in seconds:
    the task's own result, where the function does not number its chunks."""

    @field_validator("listen")
    @classmethod
    def _check_listen(cls, value: str) -> str:
        try:
            address = ListenAddress.parse(value)
        except SettingsError as exc:
            raise ValueError(str(exc)) from exc
        if address.unix:
            raise ValueError("must be host:port")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        return value if value is None else check_url(value)

    @model_validator(mode="after")
    def _check_port(self) -> StreamingSettings:
        if self.public_url is not None and ListenAddress.parse(self.listen).port == 0:
            raise ValueError("`public_url` needs a port in `listen` that its proxy can send to")
        return self

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: Secret | None) -> Secret | None:
        if value is not None:
            check_header_value(value.reveal())
        return value


class ClusterSettings(Section):
    """Models behind one Globus Compute endpoint and one port there."""

    name: str = Field(min_length=1)
    """Name of the cluster."""
    framework: str = Field(default="vllm", min_length=1)
    """Serving software, as clients name it in paths."""
    endpoint_uuid: UUID
    """The Globus Compute endpoint."""
    function_uuid: UUID
    """The registered function that runs calls there."""
    api_port: int = Field(ge=1, le=65535)
    """Port of the inference server on the compute node, as `https://127.0.0.1:{api_port}`."""
    models: list[str] = Field(min_length=1)
    """Models that the server has, by their names there."""
    operations: list[OperationName] = Field(default_factory=lambda: list(TASK_OPERATIONS))
    """What they can be asked."""
    pushes_answers: bool = False
    """Whether plain answers come the way of streams too, which saves about 0.3 s a call and is not
    bound to the size of results. Only our own function does that, and only where it reaches
    `streaming.public_url`; where it does not, the answer comes as result."""
    replica: str = ""
    """Tells servers of one cluster, framework and model apart."""

    @field_validator("operations")
    @classmethod
    def _check_operations(cls, value: list[Operation]) -> list[Operation]:
        for operation in value:
            if operation not in TASK_OPERATIONS:
                raise ValueError(f"{operation.name.lower()} cannot be asked through a task")
        return value


class RateSettings(Section):
    """The service's limit on requests of one client id."""

    requests: int = Field(default=20, ge=1)
    """Requests per `period_s`. Calls that exceed it wait and share a request. Source: Globus
    Compute documentation, "Limits": 20 in 10 s."""
    period_s: float = Field(default=10.0, gt=0)
    """Seconds."""
    file: str | None = None
    """File that all processes of one client id on this machine share, so that the limit holds for
    them together. Unset: one in the folder for temporary files, named after client id and user."""


class GlobusSettings(Section):
    """Clusters that Globus Compute reaches."""

    client_id: str = ""
    """Client id of the service account that submits tasks."""
    client_secret: Secret | None = None
    """Its secret."""
    clusters: list[ClusterSettings] = Field(default_factory=list)
    """What there is to call."""
    service_url: str = "https://compute.api.globus.org"
    """The Globus Compute web service."""
    auth_url: str = "https://auth.globus.org"
    """Globus Auth, which hands out access tokens."""
    refresh_interval_s: float = Field(default=60.0, gt=0, le=3600)
    """Seconds between two looks at an endpoint's state. Each look is one request of `rate`."""
    request_timeout_s: float = Field(default=75.0, gt=0, le=600)
    """Longest wait for an answer of the service, in seconds. A submit that has to start the
    endpoint's process waits for it."""
    max_threads: int = Field(default=8, ge=2, le=64)
    """Most requests to the service at a time."""
    max_request_bytes: int = Field(default=10 * MEBIBYTE, ge=1024)
    """Largest submit that the service takes, in bytes."""
    rate: RateSettings = RateSettings()
    """The service's limit on requests."""
    streaming: StreamingSettings = StreamingSettings()
    """Where functions send the chunks of streams."""

    @field_validator("service_url", "auth_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return check_url(value)

    @model_validator(mode="after")
    def _check_credential(self) -> GlobusSettings:
        if self.clusters and not (self.client_id and self.client_secret):
            raise ValueError("clusters need `client_id` and `client_secret`")
        return self

    @model_validator(mode="after")
    def _check_names(self) -> GlobusSettings:
        named = Counter(
            (cluster.name, cluster.framework, model, cluster.replica)
            for cluster in self.clusters
            for model in cluster.models
        )
        for (name, framework, model, _), count in named.items():
            if count > 1:
                raise ValueError(
                    f"{name}/{framework}/{model} stands {count} times; give each a `replica`"
                )
        return self
