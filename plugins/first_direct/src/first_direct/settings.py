"""The section `direct`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from first_core.plugin.http.headers import check_header_name, check_header_value
from first_core.plugin.http.settings import UpstreamSettings, check_url
from first_core.plugin.operations import OperationName
from first_core.settings import Secret, Section

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelSettings(Section):
    """One model of a provider. In the file a plain string is short for its `name`."""

    name: str = Field(min_length=1)
    """What clients ask for."""
    upstream_name: str = ""
    """What the provider calls it. Unset: `name`."""
    operations: list[OperationName] | None = None
    """What it can be asked. Unset: as the provider."""
    context_window: int = Field(default=0, ge=0)
    """Largest prompt plus answer, in tokens; 0: not known."""


class ProviderSettings(Section):
    """One API to which calls are sent as they are."""

    name: str = Field(min_length=1)
    """Name of the provider; stands as cluster in the names of its endpoints."""
    base_url: str
    """URL below which `chat/completions` or `messages` lies, such as `https://api.openai.com/v1`.
    These paths at its end are dropped."""
    dialect: Literal["openai", "anthropic"] = "openai"
    """Which API it speaks: how the key is shown, and what it can be asked by default."""
    framework: str = Field(default="api", min_length=1)
    """Stands as framework in the names of its endpoints."""
    api_keys: list[Secret] = Field(default_factory=list)
    """Credentials, used in turn. One that is refused or at its limit rests for a while."""
    models: list[ModelSettings] = Field(default_factory=list)
    """Models to offer, as strings or objects."""
    discover: bool = False
    """Whether to ask `GET models` for further models, and to count the provider as down while it
    cannot be reached."""
    discover_interval_s: float = Field(default=60.0, gt=0)
    """Seconds between two such questions; 5 at most while the provider is down."""
    operations: list[OperationName] | None = None
    """What its models can be asked. Unset: `message` and `message_token_count` with the dialect
    anthropic, else `chat`, `completion`, `embedding`, `response` and `transcription`."""
    extra_headers: dict[str, str | Secret] = Field(default_factory=dict)
    """Further headers for each request, by name; a value that is secret names its place."""
    streams_usage: bool = True
    """Whether it understands `stream_options.include_usage`."""
    upstream: UpstreamSettings = UpstreamSettings()
    """The HTTP client towards it."""

    @field_validator("models", mode="before")
    @classmethod
    def _expand_names(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        url = check_url(value)
        for ending in ("/chat/completions", "/messages"):
            url = url.removesuffix(ending)
        return url.rstrip("/")

    @field_validator("api_keys")
    @classmethod
    def _check_keys(cls, value: list[Secret]) -> list[Secret]:
        for key in value:
            check_header_value(key.reveal())
        return value

    @field_validator("extra_headers")
    @classmethod
    def _check_headers(cls, value: dict[str, str | Secret]) -> dict[str, str | Secret]:
        for text in value.values():
            check_header_value(text.reveal() if isinstance(text, Secret) else text)
        return {check_header_name(name): text for name, text in value.items()}

    @model_validator(mode="after")
    def _check_models(self) -> ProviderSettings:
        if not self.models and not self.discover:
            raise ValueError("needs `models`, or `discover: true`")
        name, count = next(
            iter(Counter(model.name for model in self.models).most_common(1)), ("", 0)
        )
        if count > 1:
            raise ValueError(f"model {name!r} stands there {count} times")
        return self

    @property
    def root_url(self) -> str:
        """URL below which the operations lie, without a slash at its end.

        Anthropic's own SDK leaves `/v1` out of its base URL, so that form is understood too.
        """
        if self.dialect == "anthropic" and not urlsplit(self.base_url).path:
            return f"{self.base_url}/v1"
        return self.base_url


class DirectSettings(Section):
    """Commercial and other APIs that are reached directly."""

    providers: list[ProviderSettings] = Field(default_factory=list)
    """The providers. Without a settings file, the environment variables `OPENAI_API_KEY` and
    `ANTHROPIC_API_KEY` stand for one each, with all its models."""

    @classmethod
    def defaults(cls, environ: Mapping[str, str], *, has_file: bool) -> dict[str, Any]:
        """Return a provider for each known key in the environment, if there is no file."""
        if has_file:
            return {}
        found = [
            {
                "name": name,
                "dialect": name,
                "base_url": environ.get(f"{name.upper()}_BASE_URL") or url,
                "api_keys": [{"env": f"{name.upper()}_API_KEY"}],
                "discover": True,
            }
            for name, url in (
                ("openai", "https://api.openai.com/v1"),
                ("anthropic", "https://api.anthropic.com/v1"),
            )
            if environ.get(f"{name.upper()}_API_KEY")
        ]
        return {"providers": found} if found else {}

    @model_validator(mode="after")
    def _check_names(self) -> DirectSettings:
        names = Counter((provider.name, provider.framework) for provider in self.providers)
        for (name, _), count in names.items():
            if count > 1:
                raise ValueError(f"{count} providers are called {name!r}; rename one of them")
        return self
