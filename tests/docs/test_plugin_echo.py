"""The example plugin works, and is what the how-to says."""

from __future__ import annotations

import json
import tomllib

import pytest

from first_core.errors import InvalidRequestError
from first_proto.v1 import common_pb2, inference_pb2


def chat(content, **fields):
    body = {"model": "echo", "messages": [{"role": "user", "content": content}], **fields}
    return inference_pb2.CallRequest(
        operation=common_pb2.OPERATION_CHAT, body=json.dumps(body).encode()
    )


def test_entry_point_names_the_module(root):
    """The distribution is found by the group `first.plugins`."""
    project = tomllib.loads((root / "docs/examples/plugin_echo/pyproject.toml").read_text())

    assert project["project"]["entry-points"]["first.plugins"] == {"echo": "plugin_echo"}


async def test_echo_answers(gateway):
    """A whole answer says again what was said."""
    async with gateway() as client:
        response = await client.call(chat("one two"))

    answer = json.loads(response.body)
    assert answer["choices"][0]["message"]["content"] == "one two"
    assert response.head.endpoint.cluster == "here"


async def test_echo_streams(gateway):
    """A stream comes word by word and is complete."""
    messages = []

    async def receive(message):
        messages.append(message)

    async with gateway() as client:
        call = inference_pb2.StreamCallRequest(call=chat("one two", stream=True))
        await client.stream(call, receive)

    data = b"".join(message.data for message in messages)
    assert data.count(b'"content"') == 2
    assert data.endswith(b"data: [DONE]\n\n")
    assert list(messages[-1].trailer.finish_reasons) == ["stop"]


async def test_echo_obeys_its_settings(gateway):
    """The section `echo` names the model."""
    async with gateway("grpc: {listen: null}\necho: {model: parrot}\n") as client:
        models = await client.list_models()

    assert [model.id for model in models] == ["parrot"]


async def test_echo_refuses_what_it_does_not_understand(gateway):
    """A body without messages is the caller's fault."""
    request = inference_pb2.CallRequest(
        operation=common_pb2.OPERATION_CHAT, body=b'{"model": "echo"}'
    )
    async with gateway() as client:
        with pytest.raises(InvalidRequestError, match="messages"):
            await client.call(request)
