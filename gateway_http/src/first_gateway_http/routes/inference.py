"""All inference operations: one handler, made once for each operation."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web
from multidict import istr

from first_core.errors import FirstError
from first_core.telemetry import CANCELLED, FIRST_REQUEST_ID, SpanKind
from first_core.types import OPERATION_PATHS, Operation, Pin
from first_gateway_http import headers as said
from first_gateway_http.answers import JSON, add_head, base_headers, bug, error_answer
from first_gateway_http.body import (
    answer_expectation,
    check_json_type,
    check_multipart_type,
    read_body,
)
from first_gateway_http.control import read_control
from first_gateway_http.dialects import dialect_of
from first_gateway_http.multipart import read_multipart_control
from first_gateway_http.routes.fallback import not_allowed, not_found
from first_gateway_http.sse import EventStream
from first_proto.v1 import inference_pb2

if TYPE_CHECKING:
    from first_core.client import Metadata
    from first_core.telemetry import Span
    from first_gateway_http.gateway import Gateway

STREAMING: Final = frozenset(
    {
        Operation.CHAT,
        Operation.COMPLETION,
        Operation.RESPONSE,
        Operation.MESSAGE,
        Operation.TRANSCRIPTION,
    }
)
"""Operations whose bodies have a `stream` field; elsewhere it means nothing."""

BASES: Final = ("", "/resource_server")
"""Where the operations stand: this API's own base, and that of today's FIRST."""

ANY_FRAMEWORK: Final = "api"
"""Stands for any framework in the paths of today's FIRST."""


def operation_paths() -> dict[str, Operation]:
    """Return all paths of operations below a base, with those that clients double by mistake."""
    paths = {path: operation for operation, path in OPERATION_PATHS.items()}
    doubled = {f"v1/{path}": paths[path] for path in paths if path.startswith("v1/")}
    bare = {"rerank": Operation.RERANK, "score": Operation.SCORE}
    return {**paths, **doubled, **bare}


def add_inference_routes(app: web.Application, gateway: Gateway) -> None:
    """Add the operations at each base, and pinned to a cluster and framework by the path."""
    routes = {op: InferenceRoute(gateway, op) for op in Operation}
    paths = operation_paths()
    for base in BASES:
        for path, operation in paths.items():
            handler = routes[operation].handle
            resource = app.router.add_resource(f"{base}/{path}")
            resource.add_route(hdrs.METH_POST, handler, expect_handler=answer_expectation)
            resource.add_route(hdrs.METH_ANY, not_allowed(hdrs.METH_POST))
    pinned = PinnedRoutes({path: routes[operation] for path, operation in paths.items()})
    resource = app.router.add_resource("/resource_server/{cluster}/{framework}/{operation:.+}")
    resource.add_route(hdrs.METH_POST, pinned.handle, expect_handler=answer_expectation)
    resource.add_route(hdrs.METH_ANY, pinned.handle_other)


class PinnedRoutes:
    """Operations whose path names a cluster and a framework."""

    def __init__(self, routes: dict[str, InferenceRoute]) -> None:
        self._routes = routes
        self._not_allowed = not_allowed(hdrs.METH_POST)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Run the operation that the path names."""
        found = request.match_info
        route = self._routes.get(found["operation"])
        if route is None:
            return await not_found(request)
        framework = found["framework"]
        pin = Pin(found["cluster"], "" if framework == ANY_FRAMEWORK else framework)
        return await route.serve(request, pin)

    async def handle_other(self, request: web.Request) -> web.StreamResponse:
        """Answer a method that no operation has."""
        known = request.match_info["operation"] in self._routes
        return await (self._not_allowed if known else not_found)(request)


class InferenceRoute:
    """Serves one operation."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation
        self._dialect = dialect_of(operation)
        self._streams = operation in STREAMING
        self._span_name = f"POST /{operation.path}"
        self._forward = tuple(istr(name) for name in gateway.settings.forward_headers)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Run a call on any endpoint."""
        return await self.serve(request, None)

    async def serve(self, request: web.Request, pin: Pin | None) -> web.StreamResponse:
        """Run a call, on endpoints that `pin` matches. This is the edge: every error ends here."""
        request_id = said.request_id_of(request.headers)
        span = self._gateway.telemetry.span(
            self._span_name, kind=SpanKind.SERVER, parent=said.trace_of(request.headers)
        )
        span.set(FIRST_REQUEST_ID, request_id)
        calls = self._gateway.calls
        task = calls.enter()
        try:
            calls.refuse_new()
            return await self._run(request, pin, request_id, span)
        except FirstError as exc:
            span.end(exc.reason)
            return self._refuse(request, exc, request_id)
        except asyncio.CancelledError:
            stopped = calls.stopped(task)
            span.end(stopped.reason if stopped else CANCELLED)
            if stopped is None:
                raise
            return self._refuse(request, stopped, request_id)
        except Exception as exc:
            error = bug(exc, request_id)
            span.end(error.reason)
            return self._refuse(request, error, request_id)
        finally:
            calls.leave(task)
            span.end()

    def _refuse(self, request: web.Request, error: FirstError, request_id: str) -> web.Response:
        if request.writer.output_size > 0:
            # A second head inside the answer would pass for text; a closed connection does not.
            raise ConnectionResetError("the answer has begun")
        answer = error_answer(error, self._dialect, request_id)
        if self._gateway.calls.is_stopping:
            answer.force_close()  # the next call goes to another process
        return answer

    async def _run(
        self, request: web.Request, pin: Pin | None, request_id: str, span: Span
    ) -> web.StreamResponse:
        gateway, headers = self._gateway, request.headers
        content_type = headers.get(hdrs.CONTENT_TYPE)
        call = inference_pb2.StreamCallRequest()
        if self._operation is Operation.TRANSCRIPTION:
            content_type = check_multipart_type(content_type)
            body = await read_body(request, gateway.settings, gateway.clock)
            control = read_multipart_control(body, content_type)
            call.call.content_type = content_type
        else:
            check_json_type(content_type)
            body = await read_body(request, gateway.settings, gateway.clock)
            control = read_control(body)
        self._fill(call.call, request, body, pin)
        metadata = said.metadata_of(headers, request_id, span)
        if control.stream and self._streams:
            return await self._stream(request, call, metadata, request_id, span)
        answer = await gateway.client.call(call.call, metadata=metadata)
        response_headers = base_headers(answer.content_type or JSON, request_id)
        response_headers[self._dialect.request_id_header] = request_id
        add_head(response_headers, answer.head)
        return web.Response(body=answer.body, headers=response_headers)

    def _fill(
        self,
        call: inference_pb2.CallRequest,
        request: web.Request,
        body: bytes,
        pin: Pin | None,
    ) -> None:
        headers = request.headers
        call.operation = self._operation.value  # type: ignore[assignment]
        call.body = body
        if pin is not None:
            call.pin.cluster = pin.cluster
            call.pin.framework = pin.framework
        if session_key := said.session_key_of(headers):
            call.session_key = session_key
        wait_ms = said.wait_budget_ms_of(headers)
        if wait_ms is not None:
            call.wait_budget.FromMilliseconds(wait_ms)
        if (priority := said.priority_of(headers)) is not None:
            call.priority = priority
        if said.continuation_disabled_of(headers):
            call.continuation_disabled = True
        if forwarded := said.forwarded(headers, self._forward):
            call.headers.update(forwarded)

    async def _stream(
        self,
        request: web.Request,
        call: inference_pb2.StreamCallRequest,
        metadata: Metadata,
        request_id: str,
        span: Span,
    ) -> web.StreamResponse:
        gateway = self._gateway
        stream = EventStream(request, self._dialect, request_id)
        if gateway.settings.heartbeat_s is not None:
            stream.start_heartbeat(gateway.clock, gateway.settings.heartbeat_s)
        if call.call.HasField("wait_budget"):
            stream.tell_progress()
        try:
            await gateway.client.stream(call, stream.receive, metadata=metadata)
            return await stream.finish()
        except BaseException as exc:
            if not stream.has_begun:
                raise
            if _is_gone(exc) and stream.client_has_left:
                span.end(CANCELLED)
                return stream.answer()  # aiohttp closes the connection when it ends the answer
            error = self._error_of(exc, request_id)
            if error is None:
                raise
            span.end(error.reason)
            return await stream.fail(error)
        finally:
            stream.close()

    def _error_of(self, exc: BaseException, request_id: str) -> FirstError | None:
        """Return what the client of a stream that has begun is told; `None`: it has left."""
        if isinstance(exc, FirstError):
            return exc
        if isinstance(exc, Exception):
            return bug(exc, request_id)
        task = asyncio.current_task()
        return self._gateway.calls.stopped(task) if task is not None else None


def _is_gone(exc: BaseException) -> bool:
    """Tell whether a write failed for want of a client; nobody has cancelled the handler yet."""
    if isinstance(exc, ConnectionError):
        return True
    task = asyncio.current_task()
    # In process the router knows a client that left as a cancelled call, whoever noticed it first.
    return isinstance(exc, asyncio.CancelledError) and task is not None and not task.cancelling()
