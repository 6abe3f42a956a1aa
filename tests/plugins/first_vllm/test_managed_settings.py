"""What the settings of managed servers mean."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from first_vllm.managed_process import LogRing
from first_vllm.managed_settings import ManagedSettings
from first_vllm.settings import VllmSettings


def test_usual_command_serves_on_loopback():
    """Without a command it is vLLM, and nobody else's machine can reach it."""
    settings = ManagedSettings(model="m", model_path="org/model", args=["--max-model-len", "9"])

    assert settings.argv(81) == [
        *("vllm", "serve", "org/model", "--served-model-name", "m"),
        *("--host", "127.0.0.1", "--port", "81", "--max-model-len", "9"),
    ]


def test_model_is_its_own_path_by_default():
    """A model on Hugging Face needs one name."""
    assert ManagedSettings(model="org/m").argv(81)[2] == "org/m"


def test_sleep_is_turned_on_in_vllm(monkeypatch):
    """The option and the mode that vLLM asks for are set."""
    settings = ManagedSettings(model="m", sleep=True, idle_stop_s=1)

    assert "--enable-sleep-mode" in settings.argv(81)
    assert settings.environ(81)["VLLM_SERVER_DEV_MODE"] == "1"


def test_braces_of_json_are_left_alone():
    """Only the placeholders are filled in."""
    settings = ManagedSettings(model="m", command=["x", '{"a": {port}}', "{other}"])

    assert settings.argv(81) == ["x", '{"a": 81}', "{other}"]


def test_secret_is_not_in_the_command_or_the_repr(monkeypatch):
    """It travels in the environment only."""
    monkeypatch.setenv("KEY", "hidden-value")
    settings = ManagedSettings(
        model="m", environment={"TOKEN": {"env": "KEY"}}, api_key={"env": "KEY"}
    )

    assert "hidden-value" not in f"{settings.argv(81)} {settings!r} {settings.model_dump_json()}"
    assert settings.environ(81)["VLLM_API_KEY"] == "hidden-value"


def test_number_is_a_value_of_a_variable():
    """YAML reads `0` as a number; variables are text."""
    environ = ManagedSettings(model="m", environment={"CUDA_VISIBLE_DEVICES": 0}).environ(81)

    assert environ["CUDA_VISIBLE_DEVICES"] == "0"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sleep": True}, "needs `idle_stop_s`"),
        ({"restart_min_s": 9, "restart_max_s": 3}, "longer than"),
        ({"environment": {"A B": "x"}}, "no name of a variable"),
        ({"command": ["serve"]}, "has no {port}"),
        ({"command": []}, "at least 1"),
        ({"port": 0}, "greater than or equal to 1"),
        ({"start": "never"}, "always"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, words):
    """The message tells what is wrong."""
    with pytest.raises(ValidationError, match=words):
        ManagedSettings(model="m", **fields)


def test_fixed_port_needs_no_placeholder():
    """A command that knows its port is fine when the gateway knows it too."""
    assert ManagedSettings(model="m", command=["serve"], port=81).argv(81) == ["serve"]


@pytest.mark.parametrize(
    "settings",
    [
        {"managed": [{"model": "m"}, {"model": "m"}]},
        {"managed": [{"model": "a", "port": 81}, {"model": "b", "port": 81}]},
        {"managed": [{"model": "m", "name": "x"}], "servers": [{"url": "http://h:1", "name": "x"}]},
    ],
)
def test_servers_that_would_meet_are_refused(settings):
    """Names and ports belong to one server each."""
    with pytest.raises(ValidationError):
        VllmSettings(**settings)


def test_server_beside_a_managed_one_is_named_by_its_address():
    """Both may serve the same model, so one of them needs a name."""
    settings = VllmSettings(managed=[{"model": "m"}], servers=[{"url": "http://h:1"}])

    assert settings.replicas() == ["h:1"]


def test_ring_keeps_the_last_lines_whole():
    """Lines come in any pieces; of the oldest none is kept."""
    ring = LogRing(2, [])
    for piece in (b"one\ntw", b"o\r\nthr", b"ee"):
        ring.feed(piece)
    ring.close()

    assert ring.lines() == ["two", "three"]


def test_ring_bounds_a_line_without_end():
    """A progress bar that never ends its line fills no memory."""
    ring = LogRing(3, [])
    for _ in range(100):
        ring.feed(b"x" * 1000)
    ring.close()

    assert len(ring.lines()) == 3
    assert max(map(len, ring.lines())) <= 4096


def test_ring_hides_secrets():
    """What a server tells of its environment is not passed on."""
    ring = LogRing(3, ["hidden", ""])
    ring.feed(b"token=hidden!\n")

    assert ring.lines() == ["token=***!"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("OSError: /data/site/models/x is not there", "OSError: …/x is not there"),
        ("see http://host/path", "see http://host/path"),
        ("org/model 3/4 done", "org/model 3/4 done"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("y" * 500, "y" * 200),
    ],
)
def test_last_words_are_for_callers(line, words):
    """They tell no folder, hold no control character, and are short."""
    ring = LogRing(3, [])
    ring.feed(line.encode() + b"\n")

    assert ring.last_words() == words
