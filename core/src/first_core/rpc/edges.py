"""The edge of each RPC: errors become statuses, bugs become INTERNAL with nothing told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
from grpc import aio

from first_core.errors import FirstError, InternalError
from first_core.wire.status import DETAILS_KEY, code_of, details_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

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
        raise  # made by the carrier itself, for example by a write to a client that has left
    except Exception:
        _log.exception("rpc_failed", extra={"request_id": request_id})
        message = f"the gateway failed; the request id is {request_id}" if request_id else "failed"
        await abort(InternalError(message, metadata={"request_id": request_id}), context)


async def abort(error: FirstError, context: Any) -> NoReturn:
    """End the RPC with the status of `error`, details included."""
    details = ((DETAILS_KEY, details_of(error)),)
    await context.abort(code_of(error), error.message, details)
    raise AssertionError  # abort does not return
