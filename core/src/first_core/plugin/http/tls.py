"""The TLS side of an upstream."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from first_core.errors import SettingsError

if TYPE_CHECKING:
    from first_core.plugin.http.settings import UpstreamSettings


def client_context(settings: UpstreamSettings) -> ssl.SSLContext:
    """Return the TLS context for an upstream; reads the files that the settings name.

    Raises:
        SettingsError: A file cannot be read or is not what it should be.
    """
    try:
        context = ssl.create_default_context(
            cafile=str(settings.ca_file) if settings.ca_file else None
        )
        if settings.client_certificate is not None:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except (OSError, ssl.SSLError) as exc:
        files = (settings.ca_file, settings.client_certificate, settings.client_key)
        names = ", ".join(str(file) for file in files if file)
        raise SettingsError(f"TLS files of an upstream ({names}): {exc}") from exc
    if not settings.verify_tls:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
