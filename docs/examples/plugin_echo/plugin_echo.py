"""The smallest whole plugin: a backend that says again what it is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from first_core.errors import InvalidRequestError
from first_core.plugin import Answer, Backend, EndpointReport, hookimpl
from first_core.settings import Section
from first_core.types import EndpointId, EndpointState, Operation

if TYPE_CHECKING:
    from first_core.plugin import (
        BackendContext,
        BackendRegister,
        Call,
        ChunkSink,
        PluginSettings,
        Publish,
        SettingsRegister,
    )


class EchoSettings(Section):
    """A backend that says again what it is told."""

    model: str = "echo"
    """Name that clients ask for."""


@hookimpl
def first_register_settings(register: SettingsRegister) -> None:
    """Offer the section `echo`."""
    register("echo", EchoSettings)


@hookimpl
def first_register_backends(register: BackendRegister, settings: PluginSettings) -> None:
    """Offer the backend `echo`."""
    section = settings.section(EchoSettings)

    def make(_context: BackendContext) -> Backend:
        return EchoBackend(section)

    register("echo", make)


class EchoBackend(Backend):
    """Answers chat calls without any upstream."""

    def __init__(self, settings: EchoSettings) -> None:
        self._model = settings.model

    async def start(self, publish: Publish) -> None:
        """Publish the one endpoint."""
        report = EndpointReport(
            id=EndpointId("here", "echo", self._model),
            served_model=self._model,
            operations=frozenset({Operation.CHAT}),
            state=EndpointState.READY,
        )
        publish([report])

    async def stop(self) -> None:
        """Close nothing."""

    async def call(self, call: Call) -> Answer:
        """Return the whole answer."""
        message = {"role": "assistant", "content": _last_words(call.body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"object": "chat.completion", "model": self._model, "choices": [choice]}
        return Answer(json.dumps(body).encode(), "application/json")

    async def stream(self, call: Call, sink: ChunkSink) -> None:
        """Write the answer word by word, then its end."""
        words = _last_words(call.body).split(" ")
        sink.start("text/event-stream")
        for number, word in enumerate(words):
            delta = {"content": f" {word}" if number else word}
            if sink.write(self._event(delta, None)):
                await sink.drain()  # the client is behind
        sink.write(self._event({}, "stop"))
        sink.write(b"data: [DONE]\n\n")

    def _event(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        chunk = {"object": "chat.completion.chunk", "model": self._model, "choices": [choice]}
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _last_words(body: bytes) -> str:
    try:
        messages: Any = json.loads(body)["messages"]
        return str(messages[-1]["content"])
    except (KeyError, IndexError, TypeError) as exc:
        raise InvalidRequestError(
            "`messages` must end in a message with `content`", metadata={"field": "messages"}
        ) from exc
