from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from first_core.settings import LogSettings
from first_core.telemetry import logs
from first_core.telemetry.redaction import MASK, MAX_TEXT_CHARS, redact_field, redact_text

if TYPE_CHECKING:
    from conftest import LogStream

SECRET = "hunter2-very-long"  # noqa: S105 - made up


@pytest.mark.parametrize(
    "text",
    [
        f"Bearer {SECRET}",
        f"bearer {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f'{{"api_key": "{SECRET}"}}',
        f"x-api-key={SECRET}",
        f"https://api/v1?api_key={SECRET}&x=1",
        f"https://user:{SECRET}@host/path",
        f"Basic {SECRET}",
        f"sk-{SECRET}",
        f"key sk-proj-{SECRET}, wrong",
        f"password={SECRET}",
        f"set-cookie: {SECRET}",
    ],
)
def test_text_loses_what_looks_like_a_credential(text: str) -> None:
    """Known shapes of credentials are masked wherever they stand."""
    assert SECRET not in redact_text(text)
    assert MASK in redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "endpoint lost",
        "task-1234567 disk-usage",
        "output_token_count 12",
        "http://127.0.0.1:8000/v1",
        "the basics",
        "time to first token: 12",
    ],
)
def test_text_without_credentials_is_left_alone(text: str) -> None:
    """What people need to read stays readable."""
    assert redact_text(text) == text


@pytest.mark.parametrize(
    "key",
    [
        *("authorization", "Authorization", "proxy-authorization", "api_key", "X-Api-Key"),
        *("apikey", "access_token", "token", "client_secret", "password", "cookie"),
        *("credential", "private_key", "body", "messages", "prompt", "content", "answer"),
    ],
)
def test_field_named_like_a_secret_is_masked(key: str) -> None:
    """Credentials and content are masked by the name of their field, at any depth."""
    assert redact_field(key, SECRET) == MASK
    assert redact_field(key, [SECRET]) == MASK
    assert redact_field("headers", {key: SECRET, "n": 1}) == {key: MASK, "n": 1}
    assert redact_field("list", [{"x": {key: {"y": SECRET}}}]) == [{"x": {key: MASK}}]


@pytest.mark.parametrize("key", ["input_token_count", "output_token_count", "first_token", "token"])
def test_counts_of_tokens_pass(key: str) -> None:
    """A token alone counts text; numbers are no credentials."""
    assert redact_field(key, 12) == 12


def test_text_is_bounded() -> None:
    """A text of any size makes a line of bounded size."""
    assert len(redact_text("x" * 1_000_000)) <= MAX_TEXT_CHARS + 1


def test_line_is_redacted_in_every_part(stream: LogStream) -> None:
    """Message, arguments, fields and traceback all pass the mask."""
    writer = logs.install(LogSettings(), stream)
    log = logging.getLogger("some.library")
    log.error(
        "sent %s",
        f"sk-{SECRET}",
        exc_info=ValueError(f"Bearer {SECRET}"),
        extra={"api_key": SECRET, "h": {"cookie": SECRET}},
    )
    logs.remove(writer)

    assert SECRET not in stream.getvalue()
    (line,) = stream.lines()
    assert line["exception"] == "ValueError: Bearer ***"
