from __future__ import annotations

import pytest
from pydantic import ValidationError

from first_core.plugin.http import (
    UpstreamSettings,
    check_header_name,
    check_header_value,
    check_url,
)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:1/", "http://h:1"),
        ("https://h/v1//", "https://h/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_url_loses_slashes_at_its_end(text, url):
    """Paths are appended with one slash."""
    assert check_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "h:8000",
        "ftp://h",
        "http://",
        "http://user:hidden@h",
        "http://h/?q=1",
        "http://h/#f",
        "http://h:99999",
        "http://h:0",
        "http://h/a b",
        "http://h\u00e9",
        "http://a..b",
        "http://h/\r\nx: y",
    ],
)
def test_url_that_no_request_can_go_to_is_refused(text):
    """What would fail at each call fails at the start."""
    with pytest.raises(ValueError, match=r"must|label|[Pp]ort"):
        check_url(text)


@pytest.mark.parametrize("text", ["a\nb", "a\r", "k\u00e9y", "a\0"])
def test_header_value_is_refused_without_quoting_it(text):
    """A credential that no header can carry is refused at the start, and not shown."""
    with pytest.raises(ValueError, match="printable") as caught:
        check_header_value(text)

    assert text not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "x:", "Host", "content-length", "transfer-encoding"])
def test_header_that_a_backend_may_not_set_is_refused(name):
    """What is no name, and what frames the message."""
    with pytest.raises(ValueError, match=r"header|frames"):
        check_header_name(name)


def test_tls_is_verified_unless_told_otherwise():
    """Nothing but the setting turns it off."""
    assert UpstreamSettings().verify_tls


@pytest.mark.parametrize(
    "fields",
    [
        {"client_key": "key.pem"},
        {"proxy": "http://user:hidden@proxy:3128"},
        {"proxy": "proxy:3128"},
        {"max_connections": 0},
        {"keepalive_s": -1},
        {"proxy_credential": {"env": "PROXY_LOGIN"}},
        {"proxy": "http://proxy:3128", "proxy_credential": {"env": "PROXY_PASSWORD"}},
    ],
)
def test_settings_that_cannot_work_are_refused(fields, monkeypatch):
    """A key without its certificate, a credential in a URL, and the like."""
    monkeypatch.setenv("PROXY_LOGIN", "user:hidden")
    monkeypatch.setenv("PROXY_PASSWORD", "without-colon")

    with pytest.raises(ValidationError) as caught:
        UpstreamSettings(**fields)

    assert "hidden" not in str(caught.value)
    assert "without-colon" not in str(caught.value)
