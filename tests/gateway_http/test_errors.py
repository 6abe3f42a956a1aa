from __future__ import annotations

import json

import pytest

from first_core import errors
from first_core.errors import FirstError
from first_core.types import UpstreamError
from first_gateway_http.errors import HTTP_STATUS, MAX_MESSAGE_CHARS, upstream_message

BODY = b'{"model":"m"}'


@pytest.fixture
def ask(raw, router, post):
    """Sends one call that fails, and returns the answer."""

    async def send(error, path="/v1/chat/completions"):
        router.error = error
        await raw.send(post(path, BODY, "x-request-id: r"))
        return await raw.answer()

    return send


TABLE = [
    (errors.InvalidRequestError, 400, "invalid_request_error", "invalid_request_error"),
    (errors.UnauthenticatedError, 401, "authentication_error", "authentication_error"),
    (errors.PermissionDeniedError, 403, "permission_error", "permission_error"),
    (errors.NotFoundError, 404, "not_found_error", "not_found_error"),
    (errors.UnsupportedError, 501, "server_error", "api_error"),
    (errors.LimitExceededError, 429, "rate_limit_error", "rate_limit_error"),
    (errors.EndpointColdError, 503, "server_error", "overloaded_error"),
    (errors.OverloadedError, 503, "server_error", "overloaded_error"),
    (errors.BackendTimeoutError, 504, "server_error", "timeout_error"),
    (errors.BackendUnavailableError, 503, "server_error", "overloaded_error"),
    (errors.StreamTruncatedError, 500, "server_error", "api_error"),
]


def _leaves(root):
    children = root.__subclasses__()
    own = [child for child in children if child.__module__ == errors.__name__]
    return {leaf for child in own for leaf in _leaves(child)} or {root}


def test_every_error_has_a_status():
    """The table of statuses knows the whole tree."""

    assert set(HTTP_STATUS) - {errors.InvalidRequestError} == _leaves(FirstError) - {
        errors.InvalidRequestError
    }


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
@pytest.mark.parametrize(("cls", "status", "openai", "_anthropic"), TABLE)
async def test_openai_error(ask, cls, status, openai, _anthropic):
    """OpenAI's clients get status, type, and the reason as code."""
    answer = await ask(cls("the message", metadata={"field": "messages"}))

    assert answer.status == status
    assert json.loads(answer.body) == {
        "error": {
            "message": "the message",
            "type": openai,
            "param": "messages",
            "code": cls.reason.lower(),
        }
    }


@pytest.mark.parametrize(("cls", "status", "_openai", "anthropic"), TABLE)
async def test_anthropic_error(ask, cls, status, _openai, anthropic):
    """Anthropic's clients get status, type and request id, also as their header."""
    answer = await ask(cls("the message"), "/v1/messages")

    assert answer.status == status
    assert answer.headers["request-id"] == "r"
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": anthropic, "message": "the message"},
        "request_id": "r",
    }


async def test_unknown_model_has_its_own_code(ask):
    """OpenAI's clients know `model_not_found`."""
    answer = await ask(errors.NotFoundError("no such model", metadata={"model": "m"}))
    error = json.loads(answer.body)["error"]

    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize(("after", "header"), [(0.2, "1"), (1.0, "1"), (29.5, "30"), (0, "0")])
async def test_retry_after_is_rounded_up(ask, after, header):
    """The header has whole seconds, never fewer than it takes."""
    answer = await ask(errors.LimitExceededError("wait", retry_after_s=after))

    assert answer.headers["retry-after"] == header


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
@pytest.mark.parametrize("error", [errors.InternalError("secret"), ValueError("secret")])
async def test_internal_error_tells_the_request_id_only(ask, error):
    """Whatever breaks inside, the client learns its request id and nothing else."""
    answer = await ask(error)
    message = json.loads(answer.body)["error"]["message"]

    assert answer.status == 500
    assert "secret" not in message
    assert message.endswith(": r")


async def test_missing_credential_says_which_kind(ask):
    """A 401 names the scheme (RFC 9110, 11.6.1)."""
    answer = await ask(errors.UnauthenticatedError("who?"))

    assert answer.headers["www-authenticate"] == "Bearer"


async def test_error_ends_the_span(ask, watch_spans):
    """A failed call's span tells the reason."""
    await ask(errors.OverloadedError("full"))

    [span] = watch_spans
    assert span.ends[0] == "OVERLOADED"


OPENAI_BODY = b'{"error":  {"message":"too long","type":"x","param":null,"code":400},"more":1}'
ANTHROPIC_BODY = b'{"type":"error",  "error":{"type":"x","message":"too long"}}'


@pytest.mark.parametrize("channel", ["direct", "grpc"], indirect=True)
@pytest.mark.parametrize("status", [400, 404, 413, 422, 429])
@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", OPENAI_BODY), ("/v1/messages", ANTHROPIC_BODY)],
)
async def test_upstream_error_of_the_dialect_passes_untouched(ask, path, body, status):
    """An upstream that speaks the client's dialect is heard byte for byte."""
    upstream = UpstreamError(status, "application/json; charset=utf-8", body)
    answer = await ask(errors.UpstreamRejectedError("rejected", upstream=upstream), path)

    assert (answer.status, answer.body) == (status, body)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/messages", OPENAI_BODY), ("/v1/chat/completions", ANTHROPIC_BODY[:-1] + b"]")],
)
async def test_upstream_error_of_another_dialect_is_wrapped(ask, path, body):
    """What the client would not understand is told in its own dialect, status kept."""
    upstream = UpstreamError(422, "application/json", body)
    answer = await ask(errors.UpstreamRejectedError("rejected", upstream=upstream), path)
    error = json.loads(answer.body)["error"]

    assert answer.status == 422
    assert error["type"] == "invalid_request_error"
    assert "too long" in error["message"]


@pytest.mark.parametrize(
    "error",
    [
        errors.OverloadedError("full", upstream=UpstreamError(529, "", b"busy")),
        errors.BackendUnavailableError("failed", upstream=UpstreamError(529, "", b"busy")),
    ],
)
async def test_upstream_status_is_kept_for_its_faults(ask, error):
    """Where the upstream said a status, the client gets it, whoever is to blame."""
    answer = await ask(error)

    assert answer.status == 529
    assert json.loads(answer.body)["error"]["message"] == "busy"


@pytest.mark.parametrize("status", [0, 200, 302, 600])
async def test_upstream_status_that_is_no_error_is_not_kept(ask, status):
    """An error never looks like success."""
    upstream = UpstreamError(status, "", b"odd")
    answer = await ask(errors.BackendUnavailableError("failed", upstream=upstream))

    assert answer.status == 503


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"text"}', "text"),
        (b'{"error":{"message":"text"}}', "text"),
        (b'{"error":{"code":3,"detail":"text"}}', "text"),
        (b'{"detail":"text"}', "text"),
        (b'{"detail":[{"loc":["body"],"msg":"text"}]}', "text"),
        (b'{"object":"error","message":"text","code":400}', "text"),
        (b'[{"error":{"message":"text"}}]', "text"),
        (b'"text"', "text"),
        (b" plain text\n", "plain text"),
        (b"{}", ""),
        (b"[]", ""),
        (b"1", ""),
        (b"", ""),
        (b"\xff", "\ufffd"),
        (b'{"error":' * 500 + b'"x"' + b"}" * 500, ""),
        (b"[" * 8000, "[" * MAX_MESSAGE_CHARS),
    ],
)
def test_message_is_found_in_any_error_body(body, message):
    """Servers put their message in many places; all known ones are looked at."""

    assert upstream_message(UpstreamError(400, "application/json", body)) == message


async def test_page_of_a_proxy_is_not_shown(ask):
    """HTML that a proxy made is no message for a client."""
    upstream = UpstreamError(502, "text/html", b"<html>nginx</html>")
    answer = await ask(errors.BackendUnavailableError("the server failed", upstream=upstream))

    assert answer.status == 502
    assert json.loads(answer.body)["error"]["message"] == "the server failed"
