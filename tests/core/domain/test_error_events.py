"""Errors that come as events of a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from first_core.domain.error_events import early_error, late_error
from first_core.domain.streams import StreamFailedError, reader_for
from first_core.errors import (
    BackendUnavailableError,
    FirstError,
    LimitExceededError,
    OverloadedError,
    StreamTruncatedError,
    UpstreamRejectedError,
)
from first_core.types import EndpointId, Operation

ENDPOINT = EndpointId("c", "f", "m")


@pytest.mark.parametrize(
    ("event", "error", "status"),
    [
        ({"error": {"message": "x", "code": 400}}, UpstreamRejectedError, 400),
        ({"error": {"message": "x", "code": "422"}}, UpstreamRejectedError, 422),
        ({"error": {"message": "x", "code": 429}}, LimitExceededError, 429),
        ({"error": {"type": "rate_limit_error"}}, LimitExceededError, 429),
        ({"error": {"type": "overloaded_error"}}, OverloadedError, 529),
        ({"error": {"message": "x"}, "code": 503}, OverloadedError, 503),
        ({"error": {"message": "x", "code": 401}}, BackendUnavailableError, None),
        ({"error": {"message": "x", "code": 500}}, BackendUnavailableError, None),
        ({"error": {"message": "x", "code": True}}, BackendUnavailableError, None),
        ({"error": "x"}, BackendUnavailableError, None),
        ({"object": "error", "message": "x", "code": 404}, UpstreamRejectedError, 404),
        ([], BackendUnavailableError, None),
    ],
)
def test_an_early_error_is_what_its_status_would_be(
    event: Any, error: type[FirstError], status: int | None
) -> None:
    """Nothing has been sent yet, so an error event means what the same HTTP status means."""
    found = early_error(json.dumps(event).encode(), ENDPOINT)

    assert type(found) is error
    assert (found.upstream.status if found.upstream else None) == status


def test_a_late_error_takes_its_event_along() -> None:
    """Amid an answer nothing can be tried again; what the upstream said is kept."""
    payload = b'{"error":{"message":"engine died","code":400}}'

    found = late_error(payload, ENDPOINT)

    assert isinstance(found, StreamTruncatedError)
    assert found.message == "the endpoint failed: engine died"
    assert found.upstream is not None
    assert found.upstream.body == payload


def test_events_that_came_with_the_error_are_not_lost() -> None:
    """Good events in the same bytes as an error event can still be passed on."""
    reader = reader_for(
        Operation.CHAT, choice_count=1, hides_usage=False, max_event_bytes=1_000_000
    )
    good = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'

    with pytest.raises(StreamFailedError) as caught:
        reader.feed(good + good + b'data: {"error":{"message":"x"}}\n\n' + good)

    assert caught.value.before == good + good
