from __future__ import annotations

import pytest
from pydantic import ValidationError

from first_core.settings import load_settings
from first_core.types import Operation
from first_direct.settings import DirectSettings, ModelSettings, ProviderSettings


def provider(**fields) -> ProviderSettings:
    return ProviderSettings(**{"name": "p", "base_url": "https://h/v1", "models": ["m"], **fields})


@pytest.mark.parametrize(
    ("dialect", "url", "root"),
    [
        ("openai", "https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("openai", "https://h/v1/chat/completions", "https://h/v1"),
        ("openai", "https://h/v1/chat/completions/", "https://h/v1"),
        ("openai", "https://h", "https://h"),
        ("anthropic", "https://api.anthropic.com", "https://api.anthropic.com/v1"),
        ("anthropic", "https://h/v1/messages", "https://h/v1"),
        ("anthropic", "https://h/proxy", "https://h/proxy"),
    ],
)
def test_base_url_may_end_as_sites_wrote_it(dialect, url, root):
    """Today's settings name the API with and without the path of an operation."""
    assert provider(dialect=dialect, base_url=url).root_url == root


def test_model_may_be_a_string():
    """A plain name is short for an object."""
    models = provider(models=["a", {"name": "b", "upstream_name": "c", "operations": ["chat"]}])

    assert models.models == [
        ModelSettings(name="a"),
        ModelSettings(name="b", upstream_name="c", operations=[Operation.CHAT]),
    ]


def test_known_keys_of_the_environment_are_providers_without_a_file(monkeypatch):
    """Where there is no file, a key that is there is used."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-2")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:9/v1")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)

    settings = load_settings(None, {"direct": DirectSettings}).sections["direct"]

    assert [(p.name, p.dialect, p.root_url, p.discover) for p in settings.providers] == [
        ("openai", "openai", "http://localhost:9/v1", True),
        ("anthropic", "anthropic", "https://api.anthropic.com/v1", True),
    ]
    assert settings.providers[0].api_keys[0].reveal() == "sk-1"


def test_keys_of_the_environment_are_left_alone_where_there_is_a_file(monkeypatch, tmp_path):
    """A file says all there is: nobody's key is used by surprise."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    file = tmp_path / "first.yaml"
    file.write_text("log: {level: info}\n")

    settings = load_settings(file, {"direct": DirectSettings}).sections["direct"]

    assert settings.providers == []


@pytest.mark.parametrize(
    "fields",
    [
        {"models": []},
        {"models": ["m", "m"]},
        {"models": [{"name": "m", "operations": ["sing"]}]},
        {"base_url": "api.openai.com"},
        {"base_url": "https://user:hidden@h/v1"},
        {"dialect": "french"},
        {"extra_headers": {"bad name": "x"}},
        {"extra_headers": {"Content-Length": "5"}},
        {"extra_headers": {"x-hidden": "a\nb"}},
        {"api_keys": ["sk-hidden"]},
        {"api_keys": [{"env": "BROKEN_KEY"}]},
        {"discover_interval_s": 0},
    ],
)
def test_settings_that_cannot_work_are_refused_unseen(fields, monkeypatch, tmp_path):
    """Models without a name, keys in the file, and the like stop the start, and show no secret."""
    monkeypatch.setenv("BROKEN_KEY", "sk-hidden\nkey")

    with pytest.raises(ValidationError) as caught:
        provider(**fields)

    assert "sk-hidden" not in str(caught.value)
    assert "user:hidden" not in str(caught.value)


def test_providers_have_names_of_their_own():
    """An endpoint's name tells where it is."""
    one = {"name": "p", "base_url": "https://h/v1", "models": ["m"]}

    with pytest.raises(ValidationError, match="'p'"):
        DirectSettings(providers=[one, one])


def test_secrets_are_not_in_the_repr(monkeypatch):
    """Settings may be printed."""
    monkeypatch.setenv("KEY_ONE", "sk-hidden")

    settings = provider(api_keys=[{"env": "KEY_ONE"}], extra_headers={"X-Team": {"env": "KEY_ONE"}})

    assert "sk-hidden" not in f"{settings!r} {settings.model_dump_json()}"
