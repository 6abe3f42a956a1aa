"""What a call costs over the link, beside gRPC with one RPC per call: CPU of both processes.

python -m bench.micro_link [--seconds 2] [--rounds 3]

Bodies of 300 bytes, answers of 600, streams of 20 events of 220; the servicer does nothing else.
Another process serves; carriers take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from typing import TYPE_CHECKING, Any, Final

import uvloop
from grpc import aio

from bench.processes import cpu_s
from first_core.client import connect
from first_core.link import LinkChannel, LinkServer
from first_proto.link.v1 import link_pb2_grpc
from first_proto.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from multiprocessing.connection import Connection

EVENTS: Final = 20
REQUEST: Final = inference_pb2.CallRequest(body=b"x" * 300, model="m")
STREAM_REQUEST: Final = inference_pb2.StreamCallRequest(call=REQUEST)
ANSWER: Final = inference_pb2.CallResponse(body=b"y" * 600, content_type="application/json")
EVENT: Final = inference_pb2.StreamCallResponse(kind=2, data=b"z" * 220)
METADATA: Final = (
    ("x-request-id", "r-1"),
    ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-00"),
)
TIMEOUT_S: Final = 60.0


class Servicer(inference_pb2_grpc.InferenceServiceServicer):
    async def Call(self, _request: Any, _context: Any) -> Any:  # noqa: N802 - the RPC's name
        return ANSWER

    async def StreamCall(self, _request: Any, context: Any) -> None:  # noqa: N802
        for _ in range(EVENTS):
            await context.write(EVENT)
            await asyncio.sleep(0)


def serve(ready: Connection) -> None:
    """Serve until killed; sends the port."""

    async def work() -> None:
        server, links = aio.server(), LinkServer()
        for target in (server, links):
            inference_pb2_grpc.add_InferenceServiceServicer_to_server(Servicer(), target)
        link_pb2_grpc.add_LinkServiceServicer_to_server(links, server)
        ready.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    uvloop.run(work())


async def call(stub: Any) -> None:
    answer = await stub.Call(REQUEST, metadata=METADATA, timeout=TIMEOUT_S)
    if len(answer.body) != 600:
        raise ValueError("a wrong answer")


async def stream(stub: Any) -> None:
    count = 0
    running = stub.StreamCall(STREAM_REQUEST, metadata=METADATA, timeout=TIMEOUT_S)
    while await running.read() is not aio.EOF:
        count += 1
    if count != EVENTS:
        raise ValueError("a wrong stream")


async def load(
    run: Callable[[Any], Awaitable[None]], stub: Any, in_flight: int, seconds: float
) -> int:
    """Keep `in_flight` calls going; return how many were made."""
    end_s = time.perf_counter() + seconds

    async def one() -> int:
        count = 0
        while time.perf_counter() < end_s:
            await run(stub)
            count += 1
        return count

    return sum(await asyncio.gather(*(one() for _ in range(in_flight))))


async def measure(port: int, pids: list[int], seconds: float, rounds: int) -> None:
    target = f"127.0.0.1:{port}"
    channels = {"link": LinkChannel(connect(target)), "grpc": connect(target)}
    rows: dict[tuple[str, int, str], list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for name, run in (("call", call), ("stream", stream)):
            for in_flight in (1, 32):
                for carrier, channel in channels.items():
                    stub = inference_pb2_grpc.InferenceServiceStub(channel)
                    await load(run, stub, in_flight, 0.2)
                    before = [cpu_s([pid]) for pid in pids]
                    begun_s = time.perf_counter()
                    count = await load(run, stub, in_flight, seconds)
                    wall_s = time.perf_counter() - begun_s
                    used = [cpu_s([pid]) - b for pid, b in zip(pids, before, strict=True)]
                    each = [seconds_used / count * 1e6 for seconds_used in used]
                    rows.setdefault((name, in_flight, carrier), []).append(
                        (each[0], each[1], count / wall_s)
                    )
    for channel in channels.values():
        await channel.close()
    print("| what | in flight | carrier | client µs | server µs | both µs | per second |")
    print("|---|---|---|---|---|---|---|")
    for (name, in_flight, carrier), found in rows.items():
        client, server, rate = (statistics.median(column) for column in zip(*found, strict=True))
        both = statistics.median(c + s for c, s, _ in found)
        print(
            f"| {name} | {in_flight} | {carrier} | {client:.0f} | {server:.0f} | {both:.0f} "
            f"| {rate:,.0f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    try:
        pids = [os.getpid(), server.pid or 0]
        uvloop.run(measure(ours.recv(), pids, options.seconds, options.rounds))
    finally:
        server.terminate()
        server.join()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
