"""What callers learn of an upstream's refusal, over both carriers."""

from __future__ import annotations

import asyncio
import email.utils

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    LimitExceededError,
    OverloadedError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.plugin.http import is_refused_credential
from first_core.plugin.http.errors import retry_after_s
from first_core.testing.simulator import ErrorStatus, Raw
from first_core.types import MAX_UPSTREAM_ERROR_BYTES, UpstreamError

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, BackendUnavailableError),
        (307, BackendUnavailableError),
        (400, UpstreamRejectedError),
        (401, BackendUnavailableError),
        (402, BackendUnavailableError),
        (403, UpstreamRejectedError),
        (404, UpstreamRejectedError),
        (407, BackendUnavailableError),
        (408, BackendTimeoutError),
        (413, UpstreamRejectedError),
        (422, UpstreamRejectedError),
        (429, LimitExceededError),
        (500, BackendUnavailableError),
        (501, UnsupportedError),
        (502, BackendUnavailableError),
        (503, OverloadedError),
        (504, BackendUnavailableError),
        (529, OverloadedError),
    ],
)
async def test_status_maps_to_one_error(call, sim, status, kind):
    """Each status has its class, and the number stands in the metadata."""
    sim.faults.add(ErrorStatus(status=status))

    with pytest.raises(kind) as caught:
        await call()

    assert type(caught.value) is kind
    assert caught.value.metadata["http_status"] == str(status)


async def test_rejection_is_passed_on_unchanged(call, sim):
    """Status, type, body and message of a 4xx are the upstream's own."""
    body = b'{ "error": {"message":"no such thing", "code":400} }'
    sim.faults.add(ErrorStatus(status=422, body=body, content_type="application/json; charset=x"))

    with pytest.raises(UpstreamRejectedError) as caught:
        await call()

    assert caught.value.upstream == UpstreamError(422, "application/json; charset=x", body)
    assert caught.value.message == "no such thing"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b'{"detail": [{"msg": "field required"}]}', "field required"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b"<html>nginx</html>", "the endpoint refused the request (HTTP 400)"),
        (b"", "the endpoint refused the request (HTTP 400)"),
        (b'{"error": {"message": ""}}', "the endpoint refused the request (HTTP 400)"),
        (b'{"error": {"message": "' + b"a" * 5000 + b'"}}', "a" * 1024),
    ],
)
async def test_rejection_tells_the_message_of_each_dialect(call, sim, body, message):
    """The message is found in all known shapes, shortened, and never made of markup."""
    sim.faults.add(ErrorStatus(status=400, body=body))

    with pytest.raises(UpstreamRejectedError) as caught:
        await call()

    assert caught.value.message == message


async def test_rejection_with_a_large_body_keeps_its_message(call, sim):
    """A body that is too large for the way back is left out; the message stays."""
    body = b'{"error": {"message": "no", "x": "' + b"a" * MAX_UPSTREAM_ERROR_BYTES + b'"}}'
    sim.faults.add(ErrorStatus(status=400, body=body))

    with pytest.raises(UpstreamRejectedError) as caught:
        await call()

    assert (caught.value.upstream.body, caught.value.message) == (b"", "no")


async def test_rejection_with_an_endless_body_is_told_by_its_status(call, sim):
    """An error body is read up to a bound, and no further."""
    head = b"HTTP/1.1 400 Bad Request\r\ntransfer-encoding: chunked\r\n\r\n"
    sim.faults.add(Raw(script=(head, b"20000\r\n" + b"a" * 0x20000 + b"\r\n"), end="hold"))

    with pytest.raises(UpstreamRejectedError) as caught:
        await call()

    assert caught.value.upstream.body == b""
    await sim.wait_aborts(1)


async def test_rejection_cut_short_is_told_by_its_status(call, sim):
    """A connection that breaks in an error body does not hide the status."""
    sim.faults.add(Raw(script=(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 50\r\n\r\n{",)))

    with pytest.raises(UpstreamRejectedError):
        await call()


@pytest.mark.parametrize("status", [401, 402, 407])
async def test_refused_credential_is_ours_and_told_without_the_body(call, sim, status):
    """The caller's credential is not at fault, and the body may quote the gateway's."""
    sim.faults.add(ErrorStatus(status=status, message=f"Incorrect API key provided: {KEY}"))

    with pytest.raises(BackendUnavailableError) as caught:
        await call(own={"authorization": f"Bearer {KEY}"})

    assert is_refused_credential(caught.value)
    assert caught.value.upstream is None
    assert not caught.value.work_started
    assert KEY not in f"{caught.value!r} {caught.value.metadata}"


@pytest.mark.parametrize("status", [400, 403, 429, 503])
async def test_body_that_quotes_our_credential_is_dropped(call, sim, status):
    """No credential of the gateway leaves it, whatever an upstream answers."""
    sim.faults.add(ErrorStatus(status=status, message=f"key {KEY} may not do this"))

    with pytest.raises((UpstreamRejectedError, LimitExceededError, OverloadedError)) as caught:
        await call(own={"x-api-key": KEY})

    assert KEY not in f"{caught.value!r} {caught.value.upstream}"
    assert caught.value.upstream.body == b""


async def test_failure_is_told_without_the_body(call, sim):
    """What an upstream says when it fails is for its operators."""
    sim.faults.add(ErrorStatus(status=500, message="/srv/models/x: CUDA out of memory"))

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert caught.value.upstream is None
    assert caught.value.message == "the endpoint failed (HTTP 500)"


async def test_errors_name_no_address(call, sim):
    """Messages for callers hold neither host nor port nor path."""
    await sim.pause_listening()

    with pytest.raises(BackendUnavailableError) as caught:
        await call()

    assert not {str(sim.port), "127.0.0.1", "v1"} & set(caught.value.message.split())


@pytest.mark.parametrize(("status", "kind"), [(429, LimitExceededError), (503, OverloadedError)])
async def test_capacity_errors_carry_the_wait_and_the_body(call, sim, status, kind):
    """`Retry-After` becomes seconds, and the upstream's own words are kept."""
    sim.faults.add(ErrorStatus(status=status, headers={"retry-after": "2.5"}, message="slow down"))

    with pytest.raises(kind) as caught:
        await call()

    assert caught.value.retry_after_s == 2.5
    assert caught.value.upstream.status == status
    assert b"slow down" in caught.value.upstream.body


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        (email.utils.formatdate(1_000_030, usegmt=True), 30.0),
        (email.utils.formatdate(999_000, usegmt=True), 0.0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("inf", None),
        ("9" * 400, None),
        ("\u0663", None),
    ],
)
def test_retry_after_is_read_in_both_forms(value, seconds):
    """Seconds and dates become seconds from now, 0 or more; anything else is not told."""
    assert retry_after_s(value, 1_000_000.0) == seconds


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"error": {"message": "boom", "code": 500}}', BackendUnavailableError),
        (b'{"error": {"message": "slow", "code": 429}}', LimitExceededError),
        (b'{"error": {"message": "bad", "code": "400"}}', UpstreamRejectedError),
        (b'{"error": {"message": "bad"}, "status": 404}', UpstreamRejectedError),
        (b'{"error": {"message": "key", "code": 401}}', BackendUnavailableError),
        (b'{"error": "boom"}', BackendUnavailableError),
        (b'{"type": "error", "error": {"type": "api_error"}}', BackendUnavailableError),
        (b'{"error": {"code": 200}}', BackendUnavailableError),
    ],
)
async def test_error_inside_a_success_is_an_error(call, sim, body, kind):
    """A 200 that holds an error is told by the status that it names, else as a failure."""
    sim.faults.add(ErrorStatus(status=200, body=body))

    with pytest.raises(kind):
        await call()


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": null, "output": []}',
        b'{"status": "failed", "error": {"code": "server_error"}, "output": []}',
        b'{"choices": [], "error": {"message": "partial"}}',
        b'{"error": {}}',
        b'{"choices": [{"message": {"content": "{\\"error\\": 1}"}}]}',
    ],
)
async def test_answer_that_mentions_an_error_is_an_answer(call, sim, body):
    """An `error` beside an answer belongs to it."""
    sim.faults.add(ErrorStatus(status=200, body=body))

    answer = await call()

    assert answer.body == body


async def test_redirect_is_not_followed(call, sim):
    """The gateway's credential goes nowhere but to the upstream it is for."""
    sim.faults.add(ErrorStatus(status=307, headers={"location": f"{sim.url}/v1/chat/completions"}))

    with pytest.raises(BackendUnavailableError):
        await call()

    assert sim.received_count == 1


async def test_error_leaves_the_connection_usable(call, sim):
    """An error body is read to its end, so the connection is kept."""
    sim.faults.add(ErrorStatus(status=400))
    with pytest.raises(UpstreamRejectedError):
        await call()

    await call()

    assert sim.connection_count == 1


async def test_cancelled_call_is_cancelled_and_no_timeout(call, sim, clock):
    """A client that leaves as a bound is hit is not answered with a timeout."""
    sim.faults.add(Raw(script=(), end="hold"))
    task = asyncio.create_task(call(first_chunk_s=1.0))
    await sim.wait_running(1)

    clock.advance(2.0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
