"""The load's own idea of a right answer, cut at every place."""

from __future__ import annotations

import pytest

from bench.load import BODY_BYTES, Connection, Tally, Work, chat

STREAM = (
    b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)
ANSWER = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'


class _Transport:
    def write(self, data: bytes) -> None: ...

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None: ...


def _answered(work: Work, *parts: bytes) -> Tally:
    tally = Tally()
    connection = Connection(tally, lambda _: None, lambda _: None)
    connection.connection_made(_Transport())
    connection.send(work)
    for part in parts:
        connection.data_received(part)
    return tally


def _response(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d x\r\ncontent-length: %d\r\n\r\n%s" % (status, len(body), body)


@pytest.mark.parametrize("stream", [True, False])
def test_chat_body_has_the_size_of_the_budget(*, stream: bool):
    """The work is the one that the budget is stated for."""
    head, _, body = chat("bench-call", stream=stream).request.partition(b"\r\n\r\n")

    assert len(body) == BODY_BYTES
    assert b"content-length: 300" in head


def test_stream_counts_its_events_wherever_it_is_cut():
    """An event that is split over two reads counts once."""
    work = chat("m", stream=True).expecting(3, slack=0)
    whole = _response(STREAM)

    for cut in range(1, len(whole)):
        tally = _answered(work, whole[:cut], whole[cut:])
        assert (tally.calls, tally.events, dict(tally.errors)) == (1, 3, {}), cut


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (STREAM.replace(b"data: [DONE]\n\n", b"data: x\n\n"), "stream without [DONE]"),
        (STREAM.replace(b'"stop"', b"null"), "stream without finish_reason"),
        (STREAM[STREAM.index(b"\n\n") + 2 :], "2 events instead of 3"),
    ],
)
def test_stream_that_is_not_whole_is_an_error(body: bytes, fault: str):
    """Status 200 alone proves nothing."""
    tally = _answered(chat("m", stream=True).expecting(3, slack=0), _response(body))

    assert dict(tally.errors) == {fault: 1}
    assert tally.calls == 0


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        (_response(b"{}", 503), "status 503"),
        (_response(ANSWER[:-20]), f"{len(ANSWER) - 20} bytes instead of {len(ANSWER)}"),
        (_response(ANSWER.replace(b'"stop"', b"null  ")), "answer without text or finish_reason"),
        (_response(b"x" * len(ANSWER)), "answer is not a chat completion"),
    ],
)
def test_answer_that_is_not_right_is_an_error(response: bytes, fault: str):
    """Status, length, text and finish are all looked at."""
    work = chat("m", stream=False).expecting(len(ANSWER), slack=8)

    assert dict(_answered(work, response).errors) == {fault: 1}


def test_answer_that_ends_early_is_an_error():
    """A connection that closes amid an answer is no answer."""
    tally = Tally()
    connection = Connection(tally, lambda _: None, lambda _: None)
    connection.connection_made(_Transport())
    connection.send(chat("m", stream=False).expecting(len(ANSWER), slack=8))
    connection.data_received(_response(ANSWER)[:-1])
    connection.connection_lost(None)

    assert dict(tally.errors) == {"connection closed before the end of the answer": 1}
