from __future__ import annotations

import json

import pytest

from first_core.errors import (
    BackendUnavailableError,
    FirstError,
    InvalidRequestError,
    UnsupportedError,
    UpstreamRejectedError,
)
from first_core.plugin import Call
from first_core.types import EndpointId, Operation, Timeouts
from first_globus.buffers import TaskResult
from first_globus.payload import answer_of, task_arguments

TRACEBACK = """\
Traceback (most recent call last):
  File "registered", line 40, in registered
Exception: API request failed with status code: 404
Response text: {"error": {"message": "no such model"}}
Response headers: {'content-type': 'application/json'}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "registered", line 45, in registered
Exception: Unexpected error of type Exception: API request failed with status code: 404
Response text: {"error": {"message": "no such model"}}
Response headers: {'content-type': 'application/json'}
Response time: 0.1
"""


def make_call(body: bytes, operation: Operation = Operation.CHAT, **fields) -> Call:
    return Call(
        operation=operation,
        endpoint=EndpointId("c", "vllm", "m"),
        body=body,
        content_type=fields.get("content_type", "application/json"),
        headers={},
        timeouts=Timeouts(),
    )


def unpack(packed: str) -> list[str]:
    buffers = []
    while packed:
        length, _, rest = packed.partition("\n")
        buffers.append(rest[: int(length)])
        packed = rest[int(length) :]
    return buffers


@pytest.mark.parametrize(
    "body", [b"{}", b" { } ", b'{"a": 1.50}\n', '{"a": "\U0001f680\\u00e9 \\" ,}"}'.encode()]
)
def test_body_stands_in_the_argument_unchanged(body):
    """Keys are spliced in; a body's own text is not written anew."""
    args, kwargs = unpack(task_arguments(make_call(body), api_port=8000))

    (argument,) = json.loads(args.removeprefix("11\n"))
    own = json.loads(body)
    added = {"openai_endpoint": "chat/completions", "api_port": 8000}
    assert argument == {"model_params": {**own, **added}}
    assert body.decode().strip()[1:-1].strip() in args
    assert kwargs == "11\n{}"


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b'{"a": "\xff"}'])
def test_what_is_no_object_is_refused(body):
    """Only JSON objects become arguments."""
    with pytest.raises(InvalidRequestError):
        task_arguments(make_call(body), api_port=8000)


@pytest.mark.parametrize(
    ("operation", "content_type"),
    [
        (Operation.TOKENIZE, "application/json"),
        (Operation.TRANSCRIPTION, "multipart/form-data; boundary=x"),
    ],
)
def test_operations_elsewhere_are_refused(operation, content_type):
    """Registered functions reach JSON routes below /v1/ only."""
    content_type = (
        "multipart/form-data" if operation is Operation.TRANSCRIPTION else "application/json"
    )
    with pytest.raises(UnsupportedError):
        task_arguments(make_call(b"{}", operation, content_type=content_type), api_port=1)


def test_status_is_found_in_a_traceback():
    """A refusal that stands in a traceback, twice, comes back as it was."""
    with pytest.raises(UpstreamRejectedError, match="no such model") as caught:
        answer_of(TaskResult("t", TRACEBACK, "RemoteExecutionError"), now_s=0.0)

    assert caught.value.upstream.body == b'{"error": {"message": "no such model"}}'


def test_answer_that_today_wraps_is_none():
    """Today's function wraps what is no JSON; that is no answer either."""
    text = json.dumps(
        {"completion": "<html>", "response_time": 1.0, "throughput_tokens_per_second": 0}, indent=4
    )
    with pytest.raises(BackendUnavailableError):
        answer_of(TaskResult("t", "11\n" + json.dumps(text)), now_s=0.0)


@pytest.mark.parametrize(
    "data", ["", "11", "11\n", "00\ngASV", "st\nx:pass", "13\n1\n1", '11\n"\\']
)
def test_other_forms_are_errors(data):
    """Nothing but JSON text is read."""
    with pytest.raises(FirstError):
        answer_of(TaskResult("t", data), now_s=0.0)


def test_answers_text_is_kept():
    """An answer's text is the string that the function returned, byte for byte."""
    text = '{"choices": [],   "x": 1.50, "y": "\\u00e9\U0001f680"}'

    answer = answer_of(TaskResult("t", "11\n" + json.dumps(text)), now_s=0.0)

    assert answer.body == text.encode()
