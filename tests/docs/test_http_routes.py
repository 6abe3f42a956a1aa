"""docs/reference/http.md lists the routes that there are."""

from __future__ import annotations

import re
from unittest.mock import sentinel

import pytest

from first_core.plugin import ActiveCalls
from first_core.settings import LogSettings, TelemetrySettings
from first_core.telemetry import Telemetry
from first_core.testing.clock import FakeClock
from first_gateway_http.app import create_app
from first_gateway_http.gateway import Gateway
from first_gateway_http.settings import HttpSettings

OTHER_BASES = ("/resource_server", "/v1/v1", "/{path}")


@pytest.fixture
def routes():
    """Method and path of each route at the API's own base."""
    clock = FakeClock()
    gateway = Gateway(
        client=sentinel.client,
        settings=HttpSettings(),
        telemetry=Telemetry(TelemetrySettings(), LogSettings(), clock),
        clock=clock,
        calls=ActiveCalls(),
    )
    found = {
        (route.method, route.resource.canonical)
        for route in create_app(gateway).router.routes()
        if route.method in {"GET", "POST"}
    }
    return {route for route in found if not route[1].startswith(OTHER_BASES)}


def test_routes_are_documented(root, routes):
    """Each route stands on the page, and each route on the page exists."""
    page = (root / "docs/reference/http.md").read_text()

    assert set(re.findall(r"`(GET|POST) (/\S*)`", page)) == routes
