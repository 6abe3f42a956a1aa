"""A stream that breaks and goes on elsewhere."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from first_core.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    FirstError,
    StreamTruncatedError,
    UpstreamRejectedError,
)
from first_core.settings import EndpointSettings, ModelSettings, ResilienceSettings, RoutingSettings
from first_core.types import Operation, UpstreamError, Usage

BODY = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":100}'
CAN = {"continues_messages": True, "operations": frozenset({Operation.CHAT})}


def event(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


def part(id_: str, *texts: str, finish: str | None = None) -> list[Any]:
    opening = event({"role": "assistant", "content": ""}, id=id_)
    events: list[Any] = [opening, *(event({"content": text}, id=id_) for text in texts)]
    if finish:
        used = {"prompt_tokens": 11, "completion_tokens": len(texts)}
        usage = json.dumps({"id": id_, "choices": [], "usage": used}).encode()
        events += [event({}, finish, id=id_), b"data: " + usage + b"\n\n", b"data: [DONE]\n\n"]
    return events


def broken() -> StreamTruncatedError:
    return StreamTruncatedError("the connection broke")


def read(data: bytes) -> list[dict[str, Any]]:
    lines = data.split(b"\n\n")
    return [json.loads(line[6:]) for line in lines if line and line != b"data: [DONE]"]


def text(data: bytes) -> str:
    return "".join(
        choice["delta"].get("content") or "" for one in read(data) for choice in one["choices"]
    )


async def test_a_broken_stream_goes_on(world: Any) -> None:
    """One id, one role, one finish, one end marker, and the text without seam."""
    w = world()
    w.add("a", [*part("one", "Hel", "lo"), broken()], **CAN)
    b = w.add("b", part("two", " world", finish="stop"), **CAN)
    written, trailer = await w.stream(BODY)
    events = read(written.data_got)

    assert text(written.data_got) == "Hello world"
    assert {one["id"] for one in events} == {"one"}
    assert sum("role" in c["delta"] for one in events for c in one["choices"]) == 1
    assert sum(bool(c["finish_reason"]) for one in events for c in one["choices"]) == 1
    assert written.data_got.count(b"[DONE]") == 1
    assert len(written.heads) == 1
    assert json.loads(b.calls[0].body)["max_tokens"] == 98
    assert trailer.usage == Usage(9, 3)
    assert trailer.continuation_count == 1


async def test_it_breaks_twice_and_still_ends(world: Any) -> None:
    """The third endpoint gets the text of both before it."""
    w = world()
    w.add("a", [*part("one", "a"), broken()], **CAN)
    w.add("b", [*part("two", "b"), broken()], **CAN)
    c = w.add("c", part("three", "c", finish="stop"), **CAN)
    written, trailer = await w.stream(BODY)

    assert text(written.data_got) == "abc"
    assert json.loads(c.calls[0].body)["messages"][-1]["content"] == "ab"
    assert trailer.continuation_count == 2


async def test_a_break_before_any_text_can_go_anywhere(world: Any) -> None:
    """Where nothing was said yet, the endpoint need not know how to continue."""
    w = world()
    w.add("a", [*part("one"), broken()])
    b = w.add("b", part("two", "hi", finish="stop"))
    written, _ = await w.stream(BODY)

    assert text(written.data_got) == "hi"
    assert b"continue_final_message" not in b.calls[0].body


async def test_text_goes_only_where_it_is_continued(world: Any) -> None:
    """An endpoint that does not declare it would begin anew."""
    w = world()
    w.add("a", [*part("one", "a"), broken()], **CAN)
    b = w.add("b", part("two", "b", finish="stop"))
    with pytest.raises(StreamTruncatedError):
        await w.stream(BODY)

    assert not b.calls


@pytest.mark.parametrize("how", ["call", "setting"])
async def test_it_can_be_turned_off(world: Any, how: str) -> None:
    """By the caller for a call, by the site for all."""
    w = world(resilience=ResilienceSettings(continuation=how != "setting"))
    w.add("a", [*part("one", "a"), broken()], **CAN)
    b = w.add("b", part("two", "b", finish="stop"), **CAN)
    with pytest.raises(StreamTruncatedError):
        await w.stream(BODY, continues=how != "call")

    assert not b.calls


async def test_text_at_the_limit_ends_with_length(world: Any) -> None:
    """When all tokens were used the end is all that is missing, and nobody generates."""
    w = world()
    w.add("a", [*part("one", "a", "b"), broken()], **CAN)
    b = w.add("b", part("two", "c", finish="stop"), **CAN)
    written, trailer = await w.stream(BODY.replace(b"100", b"2"))

    assert text(written.data_got) == "ab"
    assert trailer.finish_reasons == ("length",)
    assert written.data_got.endswith(b"data: [DONE]\n\n")
    assert not b.calls


@pytest.mark.parametrize(
    "error",
    [
        UpstreamRejectedError("no", upstream=UpstreamError(400, "text/plain", b"")),
        BackendUnavailableError("gone"),
    ],
    ids=["refused", "gone"],
)
async def test_what_the_second_says_is_not_the_clients_business(
    world: Any, error: FirstError
) -> None:
    """When nobody can go on the client is told that its stream broke, whatever came after it."""
    w = world()
    w.add("a", [*part("one", "a"), broken()], **CAN)
    w.add("b", error, **CAN)

    with pytest.raises(StreamTruncatedError):
        await w.stream(BODY)


async def test_silence_amid_a_stream_is_a_break(world: Any) -> None:
    """An endpoint that falls silent is gone on from like one that broke."""
    w = world()
    idle = BackendTimeoutError("silence", metadata={"bound": "idle"})
    w.add("a", [*part("one", "a"), idle], **CAN)
    w.add("b", part("two", "b", finish="stop"), **CAN)
    written, _ = await w.stream(BODY)

    assert text(written.data_got) == "ab"


async def test_it_stays_with_the_model_that_answered(world: Any) -> None:
    """A stream of a fallback model goes on at that model."""
    model = ModelSettings(name="m", fallbacks=["big"])
    w = world(routing=RoutingSettings(models=[model]))
    w.add("a", BackendTimeoutError("silence", metadata={"bound": "first_chunk"}), **CAN)
    w.add("b", [*part("one", "a"), broken()], model="big", **CAN)
    w.add("c", part("two", "b", finish="stop"), model="big", **CAN)
    written, _ = await w.stream(BODY)

    assert text(written.data_got) == "ab"


async def test_the_break_counts_against_its_endpoint(world: Any) -> None:
    """A server that breaks streams off opens its breaker, though calls are answered."""
    w = world()
    w.add("a", [*part("one", "a"), broken()], **CAN)
    w.add("b", part("two", "b", finish="stop"), **CAN)
    for _ in range(3):
        await w.stream(BODY)

    assert w.endpoint("a").breaker.is_open
    assert not w.endpoint("b").breaker.is_open


async def test_it_waits_for_room(world: Any, settled: Any) -> None:
    """Streams that break all at once queue at the endpoint that is left, within its bound."""
    w = world(endpoints=[EndpointSettings(cluster="b", max_in_flight=1)])
    free = asyncio.Event()
    w.add("a", [*part("one", "a"), broken()], **CAN)
    b = w.add("b", [free, *part("two", "b", finish="stop")], **CAN)
    tasks = [asyncio.ensure_future(w.stream(BODY)) for _ in range(3)]
    await settled()
    assert len(b.calls) == 1
    free.set()

    for one, _ in await asyncio.gather(*tasks):
        assert text(one.data_got) == "ab"
