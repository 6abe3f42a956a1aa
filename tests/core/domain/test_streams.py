"""Judging a stream: complete or not, usage, errors, what is hidden."""

from __future__ import annotations

import json

import pytest

from first_core.domain.streams import (
    DONE,
    MESSAGE_ENDS,
    RESPONSE_ENDS,
    ChoiceReader,
    StreamFailedError,
    StreamReader,
    TypedReader,
    read_answer,
)
from first_core.types import Usage


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(text: str, index: int = 0, finish: str | None = None) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return event({"choices": [choice]})


USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def reader(choice_count: int = 1, *, hides_usage: bool = False) -> ChoiceReader:
    return ChoiceReader(choice_count=choice_count, hides_usage=hides_usage, max_event_bytes=10_000)


def run(stream: StreamReader, data: bytes) -> bytes:
    return stream.feed(data) + stream.finish()


def test_stream_with_finish_reason_is_complete() -> None:
    """The bytes pass unchanged, usage and reason are read."""
    stream, data = reader(), delta("é") + delta("", finish="stop") + USAGE + DONE

    assert run(stream, data) == data
    assert stream.complete
    assert stream.usage == Usage(3, 2)
    assert stream.finish_reasons == ("stop",)


def test_done_is_added_when_it_is_missing() -> None:
    """An answer whose choices finished is complete without `[DONE]`, which we add."""
    stream = reader()
    data = delta("a", finish="stop")

    assert run(stream, data) == data + DONE


def test_done_alone_proves_nothing() -> None:
    """`[DONE]` without a finish reason is held back and the stream is not complete."""
    stream = reader()

    assert run(stream, delta("a") + DONE) == delta("a")
    assert not stream.complete


def test_every_choice_must_finish() -> None:
    """With two choices one finish reason is not enough."""
    stream = reader(choice_count=2)

    assert DONE not in run(stream, delta("a", 0, "stop") + delta("b", 1) + DONE)
    assert not stream.complete


def test_hidden_usage_event_is_dropped_and_read() -> None:
    """The usage event that only we asked for does not reach the client."""
    stream = reader(hides_usage=True)
    data = delta("a", finish="stop")

    assert run(stream, data + USAGE + DONE) == data + DONE
    assert stream.usage == Usage(3, 2)


def test_usage_beside_choices_is_never_dropped() -> None:
    """An event with usage and text passes, whoever asked."""
    stream = reader(hides_usage=True)
    data = event(
        {
            "choices": [{"index": 0, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        }
    )

    assert run(stream, data) == data + DONE


def test_usage_of_several_choices_is_summed() -> None:
    """llama.cpp tells usage once per choice."""
    stream = reader(choice_count=2)
    run(stream, delta("a", 0, "stop") + USAGE + delta("b", 1, "stop") + USAGE + DONE)

    assert stream.usage == Usage(6, 4)


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "boom", "code": 500}},
        {"error": "boom"},
        {"object": "error", "message": "boom"},
    ],
)
def test_error_event_fails_the_stream(error: object) -> None:
    """An error inside a 200 is an error, first or in the middle."""
    with pytest.raises(StreamFailedError) as caught:
        reader().feed(event(error))

    assert json.loads(caught.value.payload) == error
    stream = reader()
    stream.feed(delta("a"))
    with pytest.raises(StreamFailedError):
        stream.feed(event(error))


def test_the_word_error_in_a_text_is_text() -> None:
    """Text that talks of errors, usage and [DONE] passes."""
    stream = reader()
    data = delta('"error": {"usage": [DONE]} "finish_reason": "stop"')

    assert stream.feed(data) == data
    assert not stream.complete


def test_malformed_event_amid_a_stream_passes() -> None:
    """It is passed on as it came."""
    stream = reader()
    broken = b'data: {"choices":[{"index":0,"usage" "error"\n\n'
    data = delta("a") + broken + delta("b", finish="stop") + DONE

    assert run(stream, data) == data
    assert stream.complete


def test_garbage_before_the_first_event_is_no_stream() -> None:
    """A first event that is no JSON is not passed on."""
    with pytest.raises(ValueError, match="no JSON"):
        reader().feed(b"data: <html>\n\n")


def test_comments_before_the_first_event_are_held() -> None:
    """They do not count as the first event, and are not lost."""
    stream = reader()

    assert stream.feed(b": ping\n\n") == b""
    assert stream.feed(delta("a")) == b": ping\n\n" + delta("a")


def test_last_event_without_blank_line_counts() -> None:
    """A whole last event that only lacks its blank line is passed on with one."""
    stream = reader()
    data = delta("a", finish="stop")

    assert run(stream, data.rstrip(b"\n")) == data + DONE
    assert stream.complete


def test_half_an_event_at_the_end_is_dropped() -> None:
    """Half an event is no event."""
    stream = reader()
    data = delta("a")

    assert run(stream, data + delta("b", finish="stop")[:-10]) == data
    assert not stream.complete


def test_what_follows_done_is_dropped() -> None:
    """A second terminal does not reach the client."""
    stream = reader()
    data = delta("a", finish="stop") + DONE

    assert run(stream, data + DONE + delta("b")) == data


def test_any_cut_gives_the_same_bytes() -> None:
    """Wherever the network cuts, the client gets the same bytes."""
    data = delta("é漢🙂") + delta("", finish="stop") + USAGE + DONE
    for offset in range(len(data)):
        stream = reader(hides_usage=True)
        out = stream.feed(data[:offset]) + stream.feed(data[offset:]) + stream.finish()

        assert out == data.replace(USAGE, b"")
        assert stream.complete


def typed(kind: str, **fields: object) -> bytes:
    return b"event: " + kind.encode() + b"\n" + event({"type": kind, **fields})


def test_messages_end_with_message_stop() -> None:
    """Anthropic's stream is complete with `message_stop`; counts come from two events."""
    stream = TypedReader(ends=MESSAGE_ENDS, max_event_bytes=10_000)
    data = (
        typed("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}})
        + typed("content_block_delta", delta={"text": "a"})
        + typed("message_delta", delta={}, usage={"output_tokens": 7})
    )

    assert stream.feed(data) == data
    assert not stream.complete
    assert run(stream, typed("message_stop")) == typed("message_stop")
    assert stream.complete
    assert stream.usage == Usage(5, 7)


@pytest.mark.parametrize("end", sorted(RESPONSE_ENDS))
def test_responses_end_with_their_own_event(end: str) -> None:
    """A response's stream is complete with its end event, and gets no `[DONE]`."""
    stream = TypedReader(ends=RESPONSE_ENDS, max_event_bytes=10_000)
    usage = {"input_tokens": 1, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 1}}
    data = typed("response.created") + typed(end, response={"usage": usage})

    assert run(stream, data) == data
    assert stream.complete
    assert stream.usage == Usage(1, 2, 1)


def test_typed_error_event_fails_the_stream() -> None:
    """An `error` event is an error in typed dialects too."""
    stream = TypedReader(ends=MESSAGE_ENDS, max_event_bytes=10_000)
    with pytest.raises(StreamFailedError):
        stream.feed(typed("error", error={"type": "overloaded_error", "message": "x"}))


def test_whole_answer_tells_usage_and_reasons() -> None:
    """Usage and finish reasons of an answer that is not streamed are read once."""
    body = (
        b'{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    )

    assert read_answer(body) == (Usage(1, 2), ("stop",))
    assert read_answer(b"WEBVTT") == (None, ())
