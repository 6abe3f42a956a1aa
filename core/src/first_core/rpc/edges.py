"""The edge of each RPC: errors become statuses, bugs become INTERNAL with nothing told."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from grpc import aio

from first_core.errors import FirstError, InternalError
from first_core.wire.status import DETAILS_KEY, code_of, details_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def guard(run: Awaitable[T], context: Any, *, request_id: str = "") -> T:
    """Await `run`; what it raises ends the RPC with the right status.

    Args:
        run: The work of one RPC.
        context: Its `grpc.aio.ServicerContext`, or the in-process one.
        request_id: Told to the caller with a fault of ours.
    """
    try:
        return await run
    except FirstError as exc:
        await abort(exc, context)
    except (grpc.RpcError, aio.BaseError):
        raise  # made by the carrier itself
    except Exception:
        _log.exception("rpc_failed", extra={"request_id": request_id})
        message = f"the gateway failed; the request id is {request_id}" if request_id else "failed"
        await abort(InternalError(message, metadata={"request_id": request_id}), context)


async def abort(error: FirstError, context: Any) -> NoReturn:
    """End the RPC with the status of `error`, details included."""
    details = ((DETAILS_KEY, details_of(error)),)
    await context.abort(code_of(error), error.message, details)
    raise AssertionError  # abort does not return


async def send(write: Callable[[Any], Awaitable[None]], message: Any) -> None:
    """Write one message of a stream.

    Raises:
        asyncio.CancelledError: The client has left. The carrier cancels the RPC too, but where a
            write is under way, that fails first, and it is no fault of anybody.
    """
    try:
        await write(message)
    except (aio.BaseError, ConnectionError) as exc:  # the latter in process: the client's socket
        raise asyncio.CancelledError from exc
