"""`first.v1.InferenceService`: converts, calls the relay, converts back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from first_core.errors import InvalidRequestError
from first_core.rpc.edges import abort, guard, send
from first_core.wire import convert
from first_proto.v1 import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from first_core.domain.admission import Progress
    from first_core.domain.calls import Head, IncomingCall
    from first_core.domain.relay import Relay

_HEAD: Final = inference_pb2.STREAM_EVENT_KIND_HEAD
_DATA: Final = inference_pb2.STREAM_EVENT_KIND_DATA
_PROGRESS: Final = inference_pb2.STREAM_EVENT_KIND_PROGRESS
_TRAILER: Final = inference_pb2.STREAM_EVENT_KIND_TRAILER


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Runs calls for any carrier.

    Args:
        relay: Runs one call.
        max_body_bytes: Largest body of a call.
    """

    def __init__(self, relay: Relay, *, max_body_bytes: int) -> None:
        self._relay = relay
        self._max_body_bytes = max_body_bytes

    def configure(self, *, max_body_bytes: int) -> None:
        """Take calls with bodies up to another size from now on."""
        self._max_body_bytes = max_body_bytes

    async def Call(  # noqa: N802 - the name of the RPC
        self, request: inference_pb2.CallRequest, context: Any
    ) -> inference_pb2.CallResponse:
        """Run one call and return its whole answer."""
        return await self.answer(await self.incoming(request, context), context)

    async def StreamCall(  # noqa: N802 - the name of the RPC
        self, request: inference_pb2.StreamCallRequest, context: Any
    ) -> None:
        """Stream the answer of one call."""
        await self.stream(await self.incoming(request.call, context), context)

    async def answer(self, incoming: IncomingCall, context: Any) -> inference_pb2.CallResponse:
        """Run a call that was read, and return its whole answer."""
        result = await guard(self._relay.call(incoming), context, request_id=incoming.request_id)
        return inference_pb2.CallResponse(
            body=result.answer.body,
            content_type=result.answer.content_type,
            head=convert.head_message(result.head),
            trailer=convert.trailer_message(result.trailer),
        )

    async def stream(self, incoming: IncomingCall, context: Any) -> None:
        """Run a call that was read, and stream its answer."""
        run = self._relay.stream(incoming, _MessageWriter(context))
        trailer = await guard(run, context, request_id=incoming.request_id)
        message = inference_pb2.StreamCallResponse(
            kind=_TRAILER, trailer=convert.trailer_message(trailer)
        )
        await send(context.write, message)

    async def incoming(self, request: inference_pb2.CallRequest, context: Any) -> IncomingCall:
        """Return the call that a request asks for; one that is wrong ends the RPC."""
        try:
            self._check_size(request.body)
            return convert.incoming_call(
                request, context.invocation_metadata(), context.time_remaining()
            )
        except InvalidRequestError as exc:
            await abort(exc, context)

    def _check_size(self, body: bytes) -> None:
        if len(body) > self._max_body_bytes:
            raise InvalidRequestError(
                f"the body is larger than {self._max_body_bytes} bytes",
                metadata={"field": "body", "max_body_bytes": str(self._max_body_bytes)},
            )


class _MessageWriter:
    """The `AnswerWriter` that writes messages to a carrier."""

    __slots__ = ("_write",)

    def __init__(self, context: Any) -> None:
        self._write = context.write

    async def progress(self, progress: Progress) -> None:
        message = inference_pb2.StreamCallResponse(
            kind=_PROGRESS, progress=convert.progress_message(progress)
        )
        await send(self._write, message)

    async def head(self, head: Head) -> None:
        message = inference_pb2.StreamCallResponse(kind=_HEAD, head=convert.head_message(head))
        await send(self._write, message)

    async def data(self, data: bytes) -> None:
        await send(self._write, inference_pb2.StreamCallResponse(kind=_DATA, data=data))
