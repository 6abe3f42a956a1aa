"""Certificates: TLS credentials from files, and who showed which certificate."""

from __future__ import annotations

import hashlib
import ssl
from typing import TYPE_CHECKING, Any

import grpc

from first_core.errors import PermissionDeniedError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from first_core.peering.settings import AcceptedPeer, FederationSettings, PeerSettings


def server_credentials(settings: FederationSettings) -> grpc.ServerCredentials | None:
    """Return credentials that demand a certificate of each client; `None`: no TLS.

    Raises:
        SettingsError: A file cannot be read.
    """
    if not (settings.certificate and settings.key and settings.client_ca):
        return None
    pair = (_read("key", settings.key), _read("certificate", settings.certificate))
    return grpc.ssl_server_credentials(
        [pair], root_certificates=_read("client_ca", settings.client_ca), require_client_auth=True
    )


def channel_credentials(peer: PeerSettings) -> grpc.ChannelCredentials | None:
    """Return credentials that trust the peer's own authority only; `None`: no TLS.

    Raises:
        SettingsError: A file cannot be read.
    """
    if not (peer.ca and peer.certificate and peer.key):
        return None
    where = f"peers {peer.name}: "
    return grpc.ssl_channel_credentials(
        root_certificates=_read(f"{where}ca", peer.ca),
        private_key=_read(f"{where}key", peer.key),
        certificate_chain=_read(f"{where}certificate", peer.certificate),
    )


def _read(key: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SettingsError(f"federation.{key}: file {path}: {exc.strerror}") from exc


class AcceptList:
    """Knows which gateways may call.

    Args:
        accept: They.
        has_tls: Whether callers show certificates, which then decide who they are.
    """

    def __init__(self, accept: Sequence[AcceptedPeer], *, has_tls: bool) -> None:
        self._has_tls = has_tls
        self._by_name = {peer.name: peer for peer in accept}
        self._by_fingerprint = {
            peer.certificate_sha256: peer for peer in accept if peer.certificate_sha256
        }
        self._by_dns_name = {peer.dns_name: peer for peer in accept if peer.dns_name}

    def identify(self, context: Any, claimed: str) -> AcceptedPeer:
        """Return who calls.

        Args:
            context: Of the RPC.
            claimed: The name that the caller gives. Over TLS it must be that of its certificate,
                since lists of hops are made of these names.

        Raises:
            PermissionDeniedError: Nobody who may call.
        """
        if not self._has_tls:
            peer = self._by_name.get(claimed)
            if peer is None:
                raise PermissionDeniedError("this gateway does not accept the calling gateway")
            return peer
        peer = self._shown_by(context.auth_context())
        if peer is None:
            raise PermissionDeniedError("this gateway does not accept the certificate")
        if peer.name != claimed:
            raise PermissionDeniedError(
                f"the certificate belongs to the gateway {peer.name!r}, not to {claimed!r}",
                metadata={"gateway": peer.name, "claimed": claimed},
            )
        return peer

    def _shown_by(self, auth: dict[str, Sequence[bytes]]) -> AcceptedPeer | None:
        pem = b"".join(auth.get("x509_pem_cert", ())).decode("ascii")
        if not pem:
            return None
        peer = self._by_fingerprint.get(fingerprint(pem))
        if peer is not None:
            return peer
        names = [name.decode("utf-8", "replace") for name in auth.get("peer_dns", ())]
        return next((self._by_dns_name[n] for n in names if n in self._by_dns_name), None)


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate in PEM, as hexadecimal digits."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
