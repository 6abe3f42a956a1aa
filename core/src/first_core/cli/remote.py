"""Calls a router from the command line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from first_core.cli.failures import CallFailure
from first_core.client import RouterClient, connect
from first_core.errors import BackendUnavailableError
from first_core.wire.status import DETAILS_KEY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def router_client(target: str) -> AsyncIterator[RouterClient]:
    """Yield a client of the router at `target`.

    Raises:
        CallFailure: No router answers there.
        FirstError: As the router said.
    """
    channel = connect(target)
    try:
        yield RouterClient(channel)
    except BackendUnavailableError as exc:
        if _made_by_carrier(exc.__cause__):
            raise CallFailure(
                f"no router answers at {target}; start one with `first serve`, "
                "or name another with --router or FIRST_ROUTER"
            ) from exc
        raise
    finally:
        await channel.close(None)


def _made_by_carrier(cause: BaseException | None) -> bool:
    """Tell whether the gRPC library made the status: a router's own always has details."""
    if not isinstance(cause, aio.AioRpcError) or cause.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    trailing: Any = cause.trailing_metadata() or ()  # the stubs take it for one pair
    return all(key != DETAILS_KEY for key, _ in trailing)
