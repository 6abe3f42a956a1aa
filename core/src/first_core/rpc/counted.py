"""RPCs that are counted, so that a stop can wait for them, refuse new ones and end the rest."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from first_core.errors import FirstError
from first_core.rpc.edges import abort
from first_proto.v1 import inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from first_core.plugin import ActiveCalls
    from first_core.rpc.inference import InferenceServicer
    from first_proto.v1 import inference_pb2

T = TypeVar("T")


async def counted(calls: ActiveCalls, context: Any, run: Callable[[], Awaitable[T]]) -> T:
    """Run one RPC as one of `calls`; a stop ends it with a status that says so.

    Args:
        calls: Those in flight.
        context: Of the RPC.
        run: Its work.
    """
    task = calls.enter()
    try:
        calls.refuse_new()
        return await run()
    except FirstError as exc:
        await abort(exc, context)
    except asyncio.CancelledError:
        stopped = calls.stopped(task)
        if stopped is None:
            raise
        await abort(stopped, context)
    finally:
        calls.leave(task)


class CountedInference(inference_pb2_grpc.InferenceServiceServicer):
    """Runs calls of gRPC clients. Calls of fronts in this process are counted by the fronts."""

    def __init__(self, inner: InferenceServicer, calls: ActiveCalls) -> None:
        self._inner = inner
        self._calls = calls

    async def Call(  # noqa: N802 - the name of the RPC
        self, request: inference_pb2.CallRequest, context: Any
    ) -> inference_pb2.CallResponse:
        """Run one call and return its whole answer."""
        return await counted(self._calls, context, lambda: self._inner.Call(request, context))

    async def StreamCall(  # noqa: N802 - the name of the RPC
        self, request: inference_pb2.StreamCallRequest, context: Any
    ) -> None:
        """Stream the answer of one call."""
        await counted(self._calls, context, lambda: self._inner.StreamCall(request, context))
