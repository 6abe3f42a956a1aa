"""A conversation with one model, an answer at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from first_core.cli.remote import router_client
from first_core.domain.events import payload, split
from first_proto.v1 import common_pb2, inference_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


class Conversation:
    """Sends what was said so far with each question.

    Args:
        target: The router's address.
        model: Who answers.
        system: Instruction before all else.
        cluster: Only endpoints there; empty: any.
        parameters: Further fields of each body.
    """

    def __init__(
        self,
        target: str,
        model: str,
        *,
        system: str | None,
        cluster: str,
        parameters: Mapping[str, Any],
    ) -> None:
        self._target = target
        self._model = model
        self._pin = inference_pb2.Pin(cluster=cluster)
        self._parameters = dict(parameters)
        self._messages: list[dict[str, str]] = []
        if system is not None:
            self._messages.append({"role": "system", "content": system})

    async def ask(self, prompt: str, write: Callable[[str], None]) -> None:
        """Ask, and hand each piece of the answer's text to `write` as it arrives.

        A failed or cancelled question is forgotten: the next one stands alone again.

        Raises:
            CallFailure: No router answers.
            FirstError: As the router said.
        """
        asked = [*self._messages, {"role": "user", "content": prompt}]
        pieces: list[str] = []

        async def receive(message: inference_pb2.StreamCallResponse) -> None:
            for text in _texts(message.data):
                pieces.append(text)
                write(text)

        async with router_client(self._target) as client:
            await client.stream(self._request(asked), receive)
        self._messages = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def _request(self, messages: list[dict[str, str]]) -> inference_pb2.StreamCallRequest:
        body = {"model": self._model, "messages": messages, "stream": True, **self._parameters}
        call = inference_pb2.CallRequest(
            operation=common_pb2.OPERATION_CHAT, body=msgspec.json.encode(body), pin=self._pin
        )
        return inference_pb2.StreamCallRequest(call=call)


def _texts(data: bytes) -> list[str]:
    """Return the pieces of text in whole events; a router never cuts one."""
    texts = []
    for event in split(data):
        content = payload(event)
        if content and content != b"[DONE]":
            texts += [_text(choice) for choice in _decode(content).choices]
    return [text for text in texts if text]


def _decode(content: bytes) -> _Chunk:
    try:
        return msgspec.json.decode(content, type=_Chunk)
    except msgspec.DecodeError:
        return _Chunk()  # an event of a shape that we do not know has no text for us


def _text(choice: _Choice) -> str:
    return (choice.delta.content if choice.delta else None) or ""
