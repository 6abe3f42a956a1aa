"""Reading control fields, and changing a body without touching the rest of it."""

from __future__ import annotations

import json

import pytest

from first_core.domain.body import Body
from first_core.errors import InvalidRequestError
from first_core.types import Operation


def chat(data: bytes) -> Body:
    return Body(Operation.CHAT, data, "application/json")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"m","x":1}', b'{"model":"served","x":1}'),
        (b' { "x" : [1, {"model":"m"}] , "model" \t: \n "m" } ', None),
        (b'{"model":"m","messages":[{"content":"say \\"model\\":\\"m\\""}]}', None),
        (b'{"a":{"model":"m"},"model":"m"}', b'{"a":{"model":"m"},"model":"served"}'),
        (b'{"model":"a","model":"m"}', b'{"model":"a","model":"served"}'),
        (b'{"model":"m","model":"m"}', b'{"model":"served","model":"served"}'),
        (b'{"x":"\xf0\x9f\x99\x82","model":"m"}', b'{"x":"\xf0\x9f\x99\x82","model":"served"}'),
    ],
)
def test_with_model_changes_nothing_else(before: bytes, after: bytes | None) -> None:
    """Only the value of the top-level `model` changes; spaces, order and unknown keys stay."""
    changed = chat(before).with_model("served")

    assert json.loads(changed) == {**json.loads(before), "model": "served"}
    if after is not None:
        assert changed == after


def test_with_model_returns_the_same_object_when_nothing_changes() -> None:
    """A body that already names the model is not copied."""
    data = b'{"model":"m"}'

    assert chat(data).with_model("m") is data


@pytest.mark.parametrize("data", [b"{}", b" { } ", b'{"x":1}'])
def test_with_model_adds_a_missing_model(data: bytes) -> None:
    """A body without a model gets one."""
    assert json.loads(chat(data).with_model("m")) == {**json.loads(data), "model": "m"}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (b'{"model":"m","stream":true}', {"include_usage": True}),
        (b'{"stream_options":null,"model":"m"}', {"include_usage": True}),
        (b'{"stream_options":{"include_usage":false},"model":"m"}', {"include_usage": True}),
        (
            b'{"model":"m","stream_options": {"x": [1,2], "include_usage":false}}',
            {"x": [1, 2], "include_usage": True},
        ),
    ],
)
def test_with_usage_asks_for_usage(data: bytes, options: dict[str, object]) -> None:
    """`include_usage` becomes true, other stream options stay."""
    body = chat(data)

    changed = json.loads(body.with_usage(data))
    assert changed == {**json.loads(data), "stream_options": options}


@pytest.mark.parametrize(
    ("data", "asks"),
    [
        (b'{"stream_options":{"include_usage":true}}', True),
        (b'{"stream_options":{"include_usage":false}}', False),
        (b'{"stream_options":null}', False),
        (b"{}", False),
    ],
)
def test_asks_usage_is_what_the_client_said(data: bytes, asks: bool) -> None:  # noqa: FBT001
    """Only an explicit true counts as asked."""
    assert chat(data).asks_usage is asks


@pytest.mark.parametrize(
    ("operation", "data", "count"),
    [
        (Operation.CHAT, b"{}", 1),
        (Operation.CHAT, b'{"n":null}', 1),
        (Operation.CHAT, b'{"n":3}', 3),
        (Operation.COMPLETION, b'{"prompt":"a","n":2}', 2),
        (Operation.COMPLETION, b'{"prompt":["a","b","c"],"n":2}', 6),
        (Operation.COMPLETION, b'{"prompt":[1,2,3]}', 1),
        (Operation.COMPLETION, b'{"prompt":[[1,2],[3]]}', 2),
    ],
)
def test_choice_count_is_choices_times_prompts(
    operation: Operation, data: bytes, count: int
) -> None:
    """A completion has `n` choices for each prompt; a list of tokens is one prompt."""
    assert Body(operation, data, "application/json").choice_count == count


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"a":1}x',
    ],
)
def test_bad_bodies_are_the_callers_fault(data: bytes) -> None:
    """Whatever is not a JSON object in UTF-8 is refused, and the field is named."""
    with pytest.raises(InvalidRequestError) as caught:
        chat(data)

    assert caught.value.metadata == {"field": "body"}


def test_model_must_be_text() -> None:
    """A model that is not a string is refused by name."""
    with pytest.raises(InvalidRequestError, match="`model` must be a string"):
        _ = chat(b'{"model":1}').model


MULTIPART = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n'
    b"Content-Type: audio/wav\r\n\r\n\x00\xff\r\n--C\r\n\x01\r\n"
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--B--\r\n'
)


def test_multipart_model_is_replaced_in_place() -> None:
    """The field's value changes, the audio's bytes do not."""
    body = Body(Operation.TRANSCRIPTION, MULTIPART, 'multipart/form-data; boundary="B"')

    assert body.model == "m"
    assert body.with_model("served") == MULTIPART.replace(b"\r\n\r\nm\r\n", b"\r\n\r\nserved\r\n")


def test_multipart_gets_a_missing_model() -> None:
    """A body without a model field gets one in front."""
    data = MULTIPART[: MULTIPART.index(b'--B\r\nContent-Disposition: form-data; name="model')]
    body = Body(Operation.TRANSCRIPTION, data + b"--B--\r\n", "multipart/form-data; boundary=B")

    changed = Body(Operation.TRANSCRIPTION, body.with_model("m"), "multipart/form-data; boundary=B")
    assert changed.model == "m"
    assert changed.data.endswith(body.data)


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", ""])
def test_multipart_needs_a_boundary(content_type: str) -> None:
    """A content type without a boundary is refused by name."""
    with pytest.raises(InvalidRequestError) as caught:
        Body(Operation.TRANSCRIPTION, MULTIPART, content_type)

    assert caught.value.metadata == {"field": "content-type"}


@pytest.mark.parametrize(
    "data",
    [
        rb'{"x":{"model":"a"},"\u006dodel":"a"}',
        rb'{"\u006D\u006fdel" : "a","x":{"model":"a"}}',
    ],
)
def test_escaped_key_is_found_beside_a_nested_one(data: bytes) -> None:
    """A top-level key written with escapes is the one that changes, no deeper one that is not."""
    place = data.rindex(b'"a"') if data.startswith(b'{"x"') else data.index(b'"a"')

    changed = Body(Operation.CHAT, data, "application/json").with_model("b")

    assert changed == data[:place] + b'"b"' + data[place + 3 :]


@pytest.mark.parametrize(
    ("n", "count"),
    [("2", 2), ('"2"', 2), ("2.0", 2), ("null", 1), ("0", 1), ('"x"', 1), ("1e999", 1), ("[2]", 1)],
)
def test_choice_count_is_read_as_upstreams_do(n: str, count: int) -> None:
    """What an upstream's lenient reader takes for a number counts as one."""
    data = f'{{"model":"m","n":{n}}}'.encode()

    assert Body(Operation.CHAT, data, "application/json").choice_count == count


def test_options_that_are_none_are_left_to_the_upstream() -> None:
    """A `stream_options` of the wrong type is not mended: the upstream shall refuse it."""
    data = b'{"model":"m","stream_options":"x"}'

    assert Body(Operation.CHAT, data, "application/json").with_usage(data) == data
