"""The HTTP client towards upstreams, shared by all backends that speak HTTP."""

from __future__ import annotations

from first_core.plugin.http.errors import is_refused_credential
from first_core.plugin.http.headers import check_header_name, check_header_value
from first_core.plugin.http.settings import UpstreamSettings, check_url
from first_core.plugin.http.upstream import HttpUpstream, Response

__all__ = [
    "HttpUpstream",
    "Response",
    "UpstreamSettings",
    "check_header_name",
    "check_header_value",
    "check_url",
    "is_refused_credential",
]
