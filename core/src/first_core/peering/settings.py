"""The section `federation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from first_core.errors import SettingsError
from first_core.settings import ListenAddress, Section

GatewayName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
"""Stands in lists of hops and, between slashes, in the replica of an endpoint."""

_SHA256_DIGITS = 64


class PeerSettings(Section):
    """A gateway whose models are offered here."""

    name: GatewayName
    """Its name, unlike all others; endpoints behind it have it as replica."""
    target: str = Field(min_length=1)
    """Where its peer service listens, as `host:port` or `unix:path`. Without `ca` on this machine
    only."""
    ca: Path | None = None
    """File with the certificates that its own must be signed by, PEM. Unset: no TLS."""
    certificate: Path | None = None
    """File with the certificate that this gateway shows, PEM. Needed with `ca`."""
    key: Path | None = None
    """File with the private key of `certificate`, PEM. Needed with `ca`."""
    server_name: str | None = None
    """Name that its certificate must have. Default: the host of `target`."""

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        files = [self.ca, self.certificate, self.key]
        if any(files) and not all(files):
            raise ValueError("`ca`, `certificate` and `key` belong together")
        if self.ca is None and not _is_loopback(self.target):
            raise ValueError(
                "without TLS a peer is reached on this machine only; "
                "set `ca`, `certificate` and `key`"
            )
        return self


class AcceptedPeer(Section):
    """A gateway that may call here. Over TLS exactly one of `certificate_sha256` and `dns_name`."""

    name: GatewayName
    """Its `federation.name`."""
    certificate_sha256: str | None = None
    """SHA-256 fingerprint of its certificate: 64 hexadecimal digits, colons allowed."""
    dns_name: str | None = Field(default=None, min_length=1)
    """DNS name among the alternative names of its certificate. For certificates that are renewed
    by an authority which gives this name to nobody else."""
    tenant: str | None = Field(default=None, min_length=1)
    """Tenant here that its principals are charged to. Default: its name."""

    @field_validator("certificate_sha256")
    @classmethod
    def _normal_form(cls, value: str | None) -> str | None:
        if value is None:
            return None
        digits = value.replace(":", "").lower()
        if len(digits) != _SHA256_DIGITS or set(digits) - set("0123456789abcdef"):
            raise ValueError("must be 64 hexadecimal digits, colons allowed")
        return digits


class FederationSettings(Section):
    """Gateways that share their models: those that this one asks, and those that may ask it."""

    name: GatewayName | None = None
    """This gateway's name, unlike that of all others. Needed with `listen` and `peers`."""
    listen: str | None = None
    """Address for peers, as `host:port` or `unix:path`. One that others can reach needs TLS.
    Unset: no peer may call."""
    certificate: Path | None = None
    """File with the certificate that peers see, PEM."""
    key: Path | None = None
    """File with the private key of `certificate`, PEM."""
    client_ca: Path | None = None
    """File with the certificates that those of peers must be signed by, PEM."""
    hop_budget: int = Field(default=3, ge=1, le=16)
    """Most gateways that a call may pass before the one that answers it."""
    peers: tuple[PeerSettings, ...] = ()
    """Gateways whose models are offered here."""
    accept: tuple[AcceptedPeer, ...] = ()
    """Gateways that may call here; others are refused."""

    def needs_one_process(self) -> str:
        """Return why only one process may listen for peers."""
        return "the peer service listens in one process only" if self.listen is not None else ""

    @property
    def has_tls(self) -> bool:
        """Whether peers must show a certificate."""
        return self.certificate is not None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name is None and (self.listen is not None or self.peers):
            raise ValueError("`name` is needed with `listen` and `peers`")
        _check_unique("peers", [peer.name for peer in self.peers])
        _check_unique("accept", [peer.name for peer in self.accept])
        if self.name in {peer.name for peer in self.peers}:
            raise ValueError(f"`peers` names this gateway itself: {self.name}")
        files = [self.certificate, self.key, self.client_ca]
        if any(files) and not all(files):
            raise ValueError("`certificate`, `key` and `client_ca` belong together")
        if self.listen is not None:
            self._check_listen(self.listen)
        return self

    def _check_listen(self, listen: str) -> None:
        if not self.has_tls:
            if not _is_loopback(listen):
                raise ValueError(
                    "`listen` without TLS must be a loopback address; "
                    "set `certificate`, `key` and `client_ca`"
                )
            return
        for peer in self.accept:
            if (peer.certificate_sha256 is None) == (peer.dns_name is None):
                raise ValueError(
                    f"`accept` {peer.name}: with TLS, name exactly one of `certificate_sha256` "
                    "and `dns_name`"
                )


def _check_unique(key: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ValueError(f"`{key}` has a name twice")


def _is_loopback(address: str) -> bool:
    try:
        return ListenAddress.parse(address).is_loopback
    except SettingsError as exc:
        raise ValueError(str(exc)) from None
