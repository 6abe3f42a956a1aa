"""What the kit says and hears, in the format of an operation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from first_core.types import Operation


@dataclass(frozen=True, slots=True)
class Sample:
    """Bodies of one operation: valid, small, and with characters of one to four bytes."""

    answer: bytes = field(repr=False)
    """A whole answer, spaced and ordered as no encoder would."""
    events: tuple[bytes, ...] = field(repr=False)
    """Events of a whole stream, at least three; all but the last hold some text."""
    fields: dict[str, Any] = field(default_factory=dict)
    """Top-level keys that the operation needs besides model, messages and stream."""

    def body(self, model: str, prompt: str, *, stream: bool) -> bytes:
        """Return the body of a call."""
        messages = [{"role": "user", "content": prompt}]
        fields = {"model": model, "messages": messages, **self.fields, "stream": stream}
        return json.dumps(fields, ensure_ascii=False).encode()

    def odd_body(self, model: str, *, stream: bool) -> bytes:
        """Return a body that any decoder followed by any encoder would change.

        It has keys that nobody knows, odd white space, escapes that are not needed, a number with
        more digits than a float keeps, and a key that stands twice.
        """
        fixed = json.dumps({"model": model, **self.fields, "stream": stream})[1:-1]
        return (
            '{ "first_unknown" : {"deep": [1.0E2, 0.10000000000000000001, -0.0]} ,\r\n\t'
            f'{fixed}, "messages":[{{"content":"h\\u00e9llo \\/ é漢🙂","role":"user"}}],'
            '"twice":1 ,"twice": 2,  "unknown_too":null }\n'
        ).encode()


_CHUNK: Final = '{"id":"c1", "object":"chat.completion.chunk","created":1,"model":"m","choices":'

SAMPLES: Final = {
    Operation.CHAT: Sample(
        answer=(
            '{"object" : "chat.completion","id":"c1",\n "choices":[{"index":0,"message":'
            '{"role":"assistant","content":"é\\u6f22🙂"},"finish_reason":"stop"}],'
            '"unknown":[ 1.0e0 ],"usage":{"prompt_tokens":1,"completion_tokens":1}} \n'
        ).encode(),
        events=(
            f'data: {_CHUNK}[{{"index":0,"delta":{{"content":"é"}}}}]}}\n\n'.encode(),
            f'data: {_CHUNK}[{{"index":0,"delta":{{"content":"漢🙂"}}}}]}}\n\n'.encode(),
            f'data: {_CHUNK}[{{"index":0,"delta":{{}},"finish_reason":"stop"}}]}}\n\n'.encode(),
            b"data: [DONE]\n\n",
        ),
    ),
    Operation.MESSAGE: Sample(
        answer=(
            '{"type" : "message","id":"m1","role":"assistant","content":[{"type":"text","text":'
            '"é\\u6f22🙂"}],\n"stop_reason":"end_turn","unknown":[ 1.0e0 ],'
            '"usage":{"input_tokens":1,"output_tokens":1}} \n'
        ).encode(),
        events=(
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"é"}}\n\n'.encode(),
            'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
            '"delta":{"type":"text_delta","text":"漢🙂"}}\n\n'.encode(),
            (
                b'event: message_delta\ndata: {"type":"message_delta","delta":'
                b'{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}\n\n'
            ),
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
        fields={"max_tokens": 64},
    ),
}
"""Samples of the operations that the kit knows."""

OPAQUE_STREAM: Final = (
    b": a comment\r\n\r\nid: 7\r\nretry: 10\r\nevent: odd\r\ndata: one\r\ndata: two\r\n\r\n"
    b"data: not \xff\xfe text \xc3\n\n\n\ndata:no space\r\rdata: {broken\n\n\x00"
)
"""A stream that nobody should read, let alone write anew."""
