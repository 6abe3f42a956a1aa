"""What a failed attempt means."""

from __future__ import annotations

import pytest

from first_core.domain.faults import is_out_of_time, is_prompt_too_long, is_silence, pause_s
from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    OverloadedError,
    UpstreamRejectedError,
)
from first_core.types import UpstreamError


def rejected(status: int, body: bytes) -> UpstreamRejectedError:
    return UpstreamRejectedError("no", upstream=UpstreamError(status, "application/json", body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"message":"This model\'s maximum context length is 4096 tokens"}',
        b'{"error":{"code":"context_length_exceeded"}}',
        b'{"error":{"message":"the request exceeds the available context size"}}',
        b'{"error":{"message":"prompt is too long: 200001 tokens > 200000 maximum"}}',
    ],
    ids=["vllm", "openai", "llama.cpp", "anthropic"],
)
def test_prompts_too_long_are_known_by_their_words(body: bytes) -> None:
    """As each of the servers words it, at status 400 only, or those near it."""
    assert is_prompt_too_long(rejected(400, body))
    assert not is_prompt_too_long(rejected(404, body))


def test_other_refusals_are_not_taken_for_it() -> None:
    """A content refusal says nothing about length."""
    assert not is_prompt_too_long(rejected(400, b'{"error":{"code":"content_filter"}}'))
    assert not is_prompt_too_long(BackendUnavailableError("maximum context length"))


def test_silence_is_a_bound_that_was_hit() -> None:
    """A broken connection is none; the call's own end is more."""
    late = BackendTimeoutError("x", metadata={"bound": "total"})

    assert is_silence(BackendTimeoutError("x"))
    assert not is_silence(BackendUnavailableError("x"))
    assert is_out_of_time(late)
    assert not is_out_of_time(BackendTimeoutError("x", metadata={"bound": "first_chunk"}))


def test_pauses_double_and_spread() -> None:
    """From half to one and a half of the mean, which doubles."""
    for again_count in range(4):
        pauses = [pause_s(BackendUnavailableError("x"), again_count, 1.0) for _ in range(200)]
        mean = 2**again_count

        assert min(pauses) >= 0.5 * mean
        assert max(pauses) <= 1.5 * mean
        assert max(pauses) - min(pauses) > 0.5 * mean


def test_retry_after_is_taken_as_it_is() -> None:
    """The upstream's own figure is neither doubled nor spread."""
    assert pause_s(OverloadedError("x", retry_after_s=2.0), 3, 1.0) == 2.0
