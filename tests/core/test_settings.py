"""The settings file: faults are told with key, line and what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import Field

from first_core.errors import SettingsError
from first_core.settings import (
    ListenAddress,
    Secret,
    Section,
    load_settings,
    plugin_allow_list,
    require_loopback,
)

if TYPE_CHECKING:
    from pathlib import Path


class Server(Section):
    """One server."""

    url: str
    key: Secret | None = None


class Fake(Section):
    """A plugin's section."""

    servers: list[Server] = Field(default_factory=list)

    @classmethod
    def defaults(cls, environ: Any, *, has_file: bool) -> dict[str, Any]:
        found = environ.get("FAKE_URL")
        return {"servers": [{"url": found}]} if found else {}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def writer(text: str) -> Path:
        path = tmp_path / "first.yaml"
        path.write_text(text)
        return path

    return writer


def load(path: Path | None) -> Any:
    return load_settings(path, {"fake": Fake})


def test_no_file_means_defaults() -> None:
    """Without a file everything has its default."""
    settings = load(None)

    assert settings.core.grpc.listen == "127.0.0.1:50051"
    assert settings.sections["fake"] == Fake()


def test_sections_of_plugins_are_validated(write: Any) -> None:
    """A plugin's section arrives as its own model."""
    settings = load(write("fake:\n  servers:\n    - url: http://x\n"))

    assert settings.sections["fake"] == Fake(servers=[Server(url="http://x")])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("grpc:\n  listn: x\n", ":2: grpc.listn: unknown key; allowed here: listen, max_message"),
        ("nope: 1\n", ":1: nope: unknown key; allowed here: admission, "),
        ("timeouts:\n  idle_s: -1\n", ":2: timeouts.idle_s: Input should be greater than 0"),
        ("fake:\n  servers:\n    - url: x\n    - urll: x\n", ":4: fake.servers[1].urll: unknown"),
        ("fake:\n  servers:\n    - {}\n", ":3: fake.servers[0].url: Field required"),
        ("log:\n  level: loud\n", ":2: log.level: Input should be 'debug', 'info', 'warning'"),
        ("a: [\n", "not valid YAML"),
        ("- a\n", "must be a mapping"),
        (
            "fake:\n  servers:\n    - url: x\n      key: {env: NO_SUCH_VARIABLE}\n",
            ":4: fake.servers[0].key: environment variable NO_SUCH_VARIABLE is not set",
        ),
        ("fake:\n  servers:\n    - url: x\n      key: {env: A, file: b}\n", "exactly one of"),
    ],
)  # fmt: skip
def test_faults_name_key_line_and_what_is_allowed(write: Any, text: str, fault: str) -> None:
    """Each fault is one line that tells where it is and how to mend it."""
    with pytest.raises(SettingsError) as caught:
        load(write(text))

    assert fault in str(caught.value)


def test_all_faults_are_told_at_once(write: Any) -> None:
    """Two faults make two lines."""
    with pytest.raises(SettingsError) as caught:
        load(write("grpc:\n  listn: x\ntimeouts:\n  idle_s: -1\n"))

    assert len(str(caught.value).splitlines()) == 2


def test_missing_file_is_told(tmp_path: Path) -> None:
    """A path that leads nowhere is an error, not an empty file."""
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "none.yaml")


def test_secret_never_shows_itself(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is read from its place and stays out of repr, str and dump."""
    monkeypatch.setenv("FAKE_KEY", "sk-secret")
    settings = load(write("fake:\n  servers:\n    - url: x\n      key: {env: FAKE_KEY}\n"))
    key = settings.sections["fake"].servers[0].key

    assert key.reveal() == "sk-secret"
    assert "sk-secret" not in f"{settings!r}{key!s}{key.model_dump()}"


def test_secret_file_is_stripped(tmp_path: Path) -> None:
    """The line end of a secret's file is not part of the secret."""
    path = tmp_path / "key"
    path.write_text(" s \n")

    assert Secret(file=path).reveal() == "s"


def test_environment_gives_defaults_and_the_file_wins(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a plugin finds in the environment stands until the file says otherwise."""
    monkeypatch.setenv("FAKE_URL", "http://env")

    assert load(None).sections["fake"].servers[0].url == "http://env"
    assert load(write("fake:\n  servers: []\n")).sections["fake"].servers == []


def test_allow_list_is_read_before_plugins_load(write: Any) -> None:
    """`plugins.allow` needs no plugin to be read."""
    path = write("plugins:\n  allow: [vllm]\nvllm:\n  servers: 1\n")

    assert plugin_allow_list(path) == ["vllm"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", ListenAddress("127.0.0.1", 80)),
        ("[::1]:80", ListenAddress("::1", 80)),
        (":80", ListenAddress("127.0.0.1", 80)),
        ("unix:/x", ListenAddress("", 0, "/x")),
    ],
)
def test_address_is_host_and_port_or_a_socket(text: str, address: ListenAddress) -> None:
    """An address without a host means loopback."""
    assert ListenAddress.parse(text) == address


@pytest.mark.parametrize("text", ["80", "host", "host:x", "host:99999"])
def test_other_addresses_are_refused(text: str) -> None:
    """What is no address is told."""
    with pytest.raises(SettingsError, match="is no address"):
        ListenAddress.parse(text)


@pytest.mark.parametrize("text", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "example.org:80"])
def test_only_loopback_without_an_authenticator(text: str) -> None:
    """Nobody else may reach a gateway that lets everybody in."""
    with pytest.raises(SettingsError, match="loopback only"):
        require_loopback(ListenAddress.parse(text))
