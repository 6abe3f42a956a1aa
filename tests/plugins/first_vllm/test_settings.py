from __future__ import annotations

import pytest
from pydantic import ValidationError

from first_core.settings import load_settings
from first_core.types import Operation
from first_vllm.settings import ServerSettings, VllmSettings


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("https://h/gpu1/v1/", "https://h/gpu1"),
    ],
)
def test_url_may_end_as_clients_write_it(url, root):
    """The base URL of an SDK and the root of the server mean the same."""
    assert ServerSettings(url=url).url == root


def test_server_of_the_environment_is_used(monkeypatch):
    """`LOCAL_VLLM_URL` stands for a server where the settings name none."""
    monkeypatch.setenv("LOCAL_VLLM_URL", "http://gpu:8000/v1")

    settings = load_settings(None, {"vllm": VllmSettings}).sections["vllm"]

    assert [server.url for server in settings.servers] == ["http://gpu:8000"]


def test_usual_address_is_tried_without_a_file(monkeypatch):
    """Without file and variable the address of `vllm serve` is tried."""
    monkeypatch.delenv("LOCAL_VLLM_URL", raising=False)

    settings = load_settings(None, {"vllm": VllmSettings}).sections["vllm"]

    assert [server.url for server in settings.servers] == ["http://127.0.0.1:8000"]


def test_nothing_is_guessed_where_there_is_a_file(monkeypatch, tmp_path):
    """A file that names no server means none."""
    monkeypatch.delenv("LOCAL_VLLM_URL", raising=False)
    file = tmp_path / "first.yaml"
    file.write_text("log: {level: info}\n")

    settings = load_settings(file, {"vllm": VllmSettings}).sections["vllm"]

    assert settings.servers == []


def test_file_wins_over_the_environment(monkeypatch, tmp_path):
    """Servers of the file are all there are."""
    monkeypatch.setenv("LOCAL_VLLM_URL", "http://gpu:8000")
    file = tmp_path / "first.yaml"
    file.write_text("vllm: {servers: [{url: 'http://other:1', operations: [chat]}]}\n")

    settings = load_settings(file, {"vllm": VllmSettings}).sections["vllm"]

    assert [server.url for server in settings.servers] == ["http://other:1"]
    assert settings.servers[0].operations == [Operation.CHAT]


def test_replica_is_named_where_servers_share_a_cluster():
    """A lone server needs no name; several are told apart by address, or as they are called."""
    settings = VllmSettings(
        servers=[
            {"url": "http://a:8000"},
            {"url": "https://b"},
            {"url": "http://c:1", "name": "third"},
            {"url": "http://d:1", "cluster": "other"},
        ]
    )

    assert settings.replicas() == ["a:8000", "b:443", "third", ""]


@pytest.mark.parametrize(
    "servers",
    [
        [{"url": "http://a:1"}, {"url": "http://a:1/v1"}],
        [{"url": "http://a:1", "name": "x"}, {"url": "http://b:1", "name": "x"}],
        [{"url": "http://a:1", "operations": ["sing"]}],
        [{"url": "a:1"}],
        [{"url": "http://a:1", "probe_interval_s": 0}],
        [{"url": "http://a:1", "api_key": "plain"}],
    ],
)
def test_settings_that_cannot_work_are_refused(servers):
    """Servers of one name, unknown operations, and the like stop the start."""
    with pytest.raises(ValidationError):
        VllmSettings(servers=servers)


def test_key_that_no_header_can_carry_is_refused_unseen(monkeypatch):
    """The message tells what is wrong, not what the key is."""
    monkeypatch.setenv("VLLM_KEY", "hidden\nkey")

    with pytest.raises(ValidationError, match="printable") as caught:
        ServerSettings(url="http://a:1", api_key={"env": "VLLM_KEY"})

    assert "hidden" not in str(caught.value)


def test_key_is_not_in_the_repr(monkeypatch):
    """Settings may be printed."""
    monkeypatch.setenv("VLLM_KEY", "hidden-key")

    settings = VllmSettings(servers=[{"url": "http://a:1", "api_key": {"env": "VLLM_KEY"}}])

    assert "hidden-key" not in f"{settings!r} {settings.model_dump_json()}"
