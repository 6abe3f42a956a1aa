"""What can be set about the way to one upstream."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from first_core.settings import Secret, Section


class UpstreamSettings(Section):
    """The HTTP client towards one upstream."""

    proxy: str | None = None
    """URL of an HTTP proxy, `http://host:port`, without a credential in it. Unset: none, whatever
    the environment says."""
    proxy_credential: Secret | None = None
    """Credential for the proxy, as `user:password`."""
    ca_file: Path | None = None
    """PEM file with the authorities to trust instead of the system's."""
    client_certificate: Path | None = None
    """PEM file with the certificate to show to the upstream, and its chain."""
    client_key: Path | None = None
    """PEM file with the key of `client_certificate`, unless it stands in the same file."""
    verify_tls: bool = True
    """Whether the upstream must prove who it is. Off, anybody on the way can read the calls."""
    max_answer_bytes: int = Field(default=256 * 1024 * 1024, ge=1024)
    """Largest answer that is not streamed, in bytes."""
    max_connections: int = Field(default=4096, ge=1)
    """Most connections at the same time, each with one call on it. A call beyond it is refused as
    overload, so keep it above the endpoint's bound on calls in flight."""
    keepalive_s: float = Field(default=4.0, ge=0)
    """How long an idle connection is kept, in seconds; 0: not at all. Below the 5 s after which
    uvicorn, which vLLM runs on, and Node close theirs, so that a call seldom meets a connection
    that is being closed."""

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str | None) -> str | None:
        if value is not None:
            check_url(value)
        return value

    @model_validator(mode="after")
    def _check_pairs(self) -> UpstreamSettings:
        if self.client_key is not None and self.client_certificate is None:
            raise ValueError("client_key needs client_certificate")
        if self.proxy_credential is not None:
            if self.proxy is None:
                raise ValueError("proxy_credential needs proxy")
            if ":" not in self.proxy_credential.reveal():
                raise ValueError("proxy_credential must be user:password")
        return self


def check_url(text: str) -> str:
    """Return `text`, the base URL of a server, without slashes at its end.

    Raises:
        ValueError: It is no http or https URL of a server, or brings a credential, a query or a
            fragment.
    """
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL like https://host:port")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a credential; name it as a secret")
    if parts.query or parts.fragment:
        raise ValueError("must have neither query nor fragment")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be ASCII without spaces")
    parts.hostname.encode("idna")  # raises ValueError where no such name can be looked up
    if parts.port == 0:  # also raises ValueError where the port is no number up to 65535
        raise ValueError("must not have port 0")
    return text.rstrip("/")
