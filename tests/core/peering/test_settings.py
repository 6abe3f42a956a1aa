"""The section `federation` refuses what can never work, or would be open to anybody."""

from __future__ import annotations

import pydantic
import pytest

from first_core.peering.settings import FederationSettings

FILES = {"certificate": "c", "key": "k", "client_ca": "ca"}
FINGERPRINT = "AB:" * 31 + "CD"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"listen": "127.0.0.1:1"}, "`name` is needed"),
        ({"peers": [{"name": "b", "target": "127.0.0.1:1"}]}, "`name` is needed"),
        ({"name": "a", "listen": "0.0.0.0:1"}, "without TLS must be a loopback"),
        ({"name": "a", "listen": "nowhere"}, "is no address"),
        ({"name": "a", "listen": "127.0.0.1:1", "key": "k"}, "belong together"),
        ({"name": "a", "peers": [{"name": "a", "target": "127.0.0.1:1"}]}, "itself"),
        ({"name": "a", "peers": [{"name": "b", "target": "b.org:1"}]}, "on this machine only"),
        ({"name": "a", "peers": [{"name": "b", "target": "h:1", "ca": "x"}]}, "belong together"),
        ({"name": "a", "peers": [{"name": "b", "target": "unix:b"}] * 2}, "a name twice"),
        ({"name": "a", "accept": [{"name": "b"}] * 2}, "a name twice"),
        ({"name": "a/b"}, "pattern"),
        ({"name": "a", "hop_budget": 0}, "greater than or equal to 1"),
        ({"name": "a", "listen": "h:1", **FILES, "accept": [{"name": "b"}]}, "exactly one"),
        ({"accept": [{"name": "b", "certificate_sha256": "12"}]}, "64 hexadecimal digits"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(values, told):
    """The message says what is wrong."""
    with pytest.raises(pydantic.ValidationError) as caught:
        FederationSettings.model_validate(values)

    assert told in str(caught.value)


def test_both_rules_for_one_certificate_are_refused():
    """Over TLS a peer is known by its fingerprint or by its name, not by either."""
    peer = {"name": "b", "dns_name": "b.org", "certificate_sha256": FINGERPRINT}
    with pytest.raises(pydantic.ValidationError):
        FederationSettings.model_validate({"name": "a", "listen": "h:1", **FILES, "accept": [peer]})


def test_fingerprints_are_taken_as_openssl_prints_them():
    """Colons and case do not matter."""
    peer = {"name": "b", "certificate_sha256": FINGERPRINT}
    settings = FederationSettings.model_validate({"accept": [peer]})

    assert settings.accept[0].certificate_sha256 == "ab" * 31 + "cd"
