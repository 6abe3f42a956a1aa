from __future__ import annotations

import pydantic
import pytest

from first_core.plugin import FrontContext, PluginSettings
from first_core.plugin.host import PluginHost
from first_gateway_http import plugin
from first_gateway_http.app import HttpFront
from first_gateway_http.settings import HttpSettings


@pytest.fixture
def host():
    host = PluginHost()
    host.add("gateway_http", plugin)
    return host


def test_hook_first_register_settings(host):
    """The plugin owns the section `http`."""

    assert host.settings_sections().offers() == {"http": HttpSettings}


def test_hook_first_register_fronts(host, telemetry, clock, channel):
    """The plugin offers the front `http`, made of its own section."""
    settings = PluginSettings({"http": HttpSettings()})
    front = host.fronts(settings).offers()["http"](FrontContext(channel, telemetry, clock))

    assert isinstance(front, HttpFront)


@pytest.mark.parametrize("name", ["authorization", "x-api-key", "cookie", "OpenAI-Beta"])
def test_credentials_cannot_be_forwarded(name):
    """No setting makes the front pass on a credential; names are lower case."""

    with pytest.raises(pydantic.ValidationError):
        HttpSettings(forward_headers=[name])
