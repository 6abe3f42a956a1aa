"""How calls end: the statuses of gRPC, and what a link adds to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import grpc
from grpc import aio

if TYPE_CHECKING:
    from collections.abc import Iterable

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

NOT_STARTED_KEY: Final = "first-link-not-started"
"""Trailing metadata key, with any value: the call surely reached no servicer."""

CODES: Final = {code.value[0]: code for code in grpc.StatusCode}


class LinkError(Exception):
    """A link that cannot be opened, or that ended.

    Args:
        code: What the calls on it end with.
        text: Why, for a person.
    """

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def broken(text: str) -> LinkError:
    """Return the error for a peer that breaks the rules."""
    return LinkError(grpc.StatusCode.INVALID_ARGUMENT, text)


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Metadata = ()
    not_started: bool = False
    """Whether it surely reached no servicer."""

    def error(self) -> aio.AioRpcError:
        """Return it as the error that callers of gRPC know."""
        trailing = self.trailing
        if self.not_started:
            trailing = (*trailing, (NOT_STARTED_KEY, "1"))
        return aio.AioRpcError(
            self.code,
            aio.Metadata(),
            aio.Metadata(*trailing),
            details=self.details,
            debug_error_string=None,
        )


OK: Final = Status(grpc.StatusCode.OK)
EXPIRED: Final = Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
CANCELLED: Final = Status(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")


def surely_not_started(error: aio.AioRpcError) -> bool:
    """Tell whether a failed call surely reached no servicer; `False` also means not known."""
    trailing: Iterable[tuple[str, str | bytes]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    return any(key == NOT_STARTED_KEY for key, _ in trailing)
