"""What is remembered of a stream, so that another endpoint can go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from first_core.domain.transcript import MAX_TRANSCRIPT_BYTES, Transcript
from first_core.types import Operation, Usage

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "x": {"y": 1}}


def event(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    value = {"id": "one", "created": 1, "choices": [choice], **fields}
    return b"data: " + json.dumps(value).encode() + b"\n\n"


OPEN = event({"role": "assistant", "content": ""})


def transcript(*events: bytes, **body: Any) -> Transcript:
    made = Transcript(Operation.CHAT, json.dumps({**BODY, **body}).encode())
    for one in (OPEN, *events):
        made.add(one)
    return made


def request(made: Transcript, **body: Any) -> dict[str, Any]:
    found = made.request(json.dumps({**BODY, **body}).encode())
    assert found is not None
    return json.loads(found)


def test_the_text_becomes_an_open_message() -> None:
    """As vLLM wants it; every other field stays."""
    made = transcript(event({"content": "Hel"}), event({"content": "lo"}))
    assert made.can_continue()
    found = request(made)

    assert found["messages"][-1] == {"role": "assistant", "content": "Hello"}
    assert found["continue_final_message"] is True
    assert found["add_generation_prompt"] is False
    assert found["x"] == {"y": 1}


def test_a_clients_own_open_message_grows() -> None:
    """One that asked to continue a message gets that one continued, not a second one."""
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Well, "}]
    body = {"messages": messages, "continue_final_message": True}
    made = transcript(event({"content": "yes"}), **body)
    assert made.can_continue()

    assert request(made, **body)["messages"][1:] == [{"role": "assistant", "content": "Well, yes"}]


@pytest.mark.parametrize("content", [[{"type": "text", "text": "a"}], None], ids=["parts", "none"])
def test_an_open_message_that_is_no_text_is_not_continued(content: Any) -> None:
    """Nothing tells how parts would be joined."""
    messages = [{"role": "assistant", "content": content}]
    made = transcript(event({"content": "a"}), messages=messages, continue_final_message=True)

    assert not made.can_continue()


def test_before_any_text_the_body_stays() -> None:
    """A break before the first word is a new start, anywhere."""
    made = transcript()
    assert made.can_continue()

    assert request(made) == BODY


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json": {}}},
        {"guided_regex": "a+"},
        {"echo": True},
        {"return_token_ids": True},
        {"messages": "hi"},
    ],
    ids=lambda body: next(iter(body)),
)
def test_some_answers_cannot_be_continued(body: dict[str, Any]) -> None:
    """Several choices, log probabilities and structured output cannot be gone on with exactly."""
    assert not transcript(event({"content": "a"}), **body).can_continue()


@pytest.mark.parametrize(
    "sent",
    [
        event({"tool_calls": [{"index": 0, "id": "t"}]}),
        event({"reasoning_content": "hm"}),
        event({"reasoning": "hm"}),
        event({}, finish="stop"),
        b"data: no json\n\n",
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[]}}]}\n\n',
    ],
    ids=["tools", "reasoning_content", "reasoning", "finished", "garbage", "logprobs"],
)
def test_what_was_sent_may_forbid_it(sent: bytes) -> None:
    """A tool call or reasoning that has begun, an end, or what cannot be read."""
    assert not transcript(event({"content": "a"}), sent).can_continue()


def test_other_operations_are_not_continued() -> None:
    """Only chat has messages to leave open."""
    assert not Transcript(Operation.COMPLETION, b"{}").can_continue()


def test_plain_text_format_is_plain() -> None:
    """`response_format: text` structures nothing."""
    assert transcript(event({"content": "a"}), response_format={"type": "text"}).can_continue()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit_is_what_is_left(name: str) -> None:
    """Tokens that were sent are used; the minimum shrinks with them, to 0 at least."""
    made = transcript(event({"content": "a"}), event({"content": "b"}))
    assert made.can_continue()
    found = request(made, **{name: 10, "min_tokens": 1})

    assert found[name] == 8
    assert found["min_tokens"] == 0


def test_a_tokenizer_counts_better() -> None:
    """Its number replaces that of the events; nonsense does not."""
    made = transcript(event({"content": "three words here"}))
    assert made.can_continue()
    for said in (b"no", b"{}", b'{"count":-1}', b'{"count":"9"}'):
        made.counted(said)
    assert made.used_token_count == 1
    made.counted(b'{"count":3}')

    assert request(made, max_tokens=10)["max_tokens"] == 7


def test_text_at_the_limit_ends() -> None:
    """Nothing is asked; the end that is missing says `length`, in the form of the answer."""
    made = transcript(event({"content": "a"}, system_fingerprint="f"))
    assert made.can_continue()
    assert made.request(json.dumps({**BODY, "max_tokens": 1}).encode()) is None
    last = json.loads(made.last_events().removeprefix(b"data: "))

    assert last["id"] == "one"
    assert last["choices"][0]["finish_reason"] == "length"


def test_edited_events_are_part_of_the_first_answer() -> None:
    """One id, one role; unknown fields, end marker and comments stay."""
    made = transcript(event({"content": "a"}))
    assert made.can_continue()
    again = event({"role": "assistant", "content": ""}, id="two")
    more = event({"role": "assistant", "content": "b"}, id="two", created=9, odd=[1])
    edited = made.edit(again + more + b": comment\n\n" + b"data: [DONE]\n\n")
    first, *rest = edited.split(b"\n\n")

    assert json.loads(first.removeprefix(b"data: ")) == {
        "id": "one",
        "created": 1,
        "odd": [1],
        "choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": None}],
    }
    assert rest == [b": comment", b"data: [DONE]", b""]


def test_usage_is_that_of_the_whole() -> None:
    """What was prompt for the second endpoint was answer for the client."""
    made = transcript(event({"content": "a"}), event({"content": "b"}))
    assert made.can_continue()
    usage = b'data: {"id":"two","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5}}'
    edited = json.loads(made.edit(usage + b"\n\n").removeprefix(b"data: "))

    assert made.sum_up(Usage(12, 5)) == Usage(10, 7)
    assert edited["usage"] == {"prompt_tokens": 10, "completion_tokens": 7}


def test_a_second_break_goes_on_after_both_parts() -> None:
    """Text and count grow from part to part."""
    made = transcript(event({"content": "a"}))
    assert made.can_continue()
    made.counted(b'{"count":4}')
    made.add(made.edit(event({"content": "b"}, id="two")))
    assert made.can_continue()

    assert made.text == "ab"
    assert made.used_token_count == 5


def test_memory_is_bounded() -> None:
    """An answer that is too long to keep is not continued, and not kept."""
    made = transcript(b"x" * (MAX_TRANSCRIPT_BYTES + 1))

    assert not made.can_continue()
    assert not made._events
