"""The section `http` of the settings file."""

from __future__ import annotations

from typing import Final

from pydantic import Field, field_validator

from first_core.settings import Section

_CREDENTIAL_HEADERS: Final = frozenset(
    {"authorization", "cookie", "proxy-authorization", "x-api-key"}
)


class HttpSettings(Section):
    """The HTTP front."""

    listen: str = "127.0.0.1:8080"
    """Address as `host:port`, `[v6]:port` or `unix:path`. Port 0 takes any free port."""
    reuse_port: bool = False
    """Whether several processes may listen on this port; the kernel spreads connections."""
    max_body_bytes: int = Field(default=20 * 1024 * 1024, ge=1024)
    """Largest body of a request, in bytes, after decompression. Not above
    `limits.max_body_bytes`, which the router holds."""
    body_timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for the rest of a body whose headers have come, in seconds; then 408."""
    keepalive_s: float = Field(default=75.0, gt=0)
    """Longest wait for the next request on an open connection, in seconds, its headers
    included."""
    heartbeat_s: float | None = Field(default=None, gt=0)
    """Silence before the first event after which a stream begins with a comment, and again after
    each further such time, in seconds. `null`: no comments. Once a comment was sent, an error can
    only be an event in the stream, no HTTP status."""
    drain_s: float | None = Field(default=None, ge=0)
    """How long a stop waits for calls in flight, in seconds; then they end in an error. Default:
    the core's `drain_s`."""
    forward_headers: tuple[str, ...] = (
        "anthropic-beta",
        "anthropic-version",
        "openai-beta",
        "x-alcf-session-id",
    )
    """Headers of the client that go on to the router, lower case. Never a credential."""
    cors_allow_origins: tuple[str, ...] = ()
    """Origins whose pages may call the gateway from a browser, for example
    `https://chat.example.org`, or `*` for all. Empty: none."""

    @field_validator("forward_headers")
    @classmethod
    def _check_forward_headers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name != name.lower():
                raise ValueError(f"write {name!r} in lower case")
            if name in _CREDENTIAL_HEADERS:
                raise ValueError(f"{name!r} is a credential and never passed on")
        return names
