"""What a dialect is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from first_gateway_http.errors import Failure


class Dialect(ABC):
    """How one family of clients wants to hear of errors. Answers pass through untouched."""

    request_id_header: str = "x-request-id"
    """Where its clients look for the request id, besides `x-request-id`."""

    @abstractmethod
    def error_body(self, failure: Failure, request_id: str) -> bytes:
        """Return the JSON body of an error answer."""

    @abstractmethod
    def error_event(self, failure: Failure, request_id: str, *, last: bytes) -> bytes:
        """Return the event that ends a stream which cannot go on.

        Args:
            failure: What to tell.
            request_id: Id of the request.
            last: The last bytes that were sent, whole events; empty: none.
        """

    @abstractmethod
    def is_error_body(self, document: Any) -> bool:
        """Tell whether an upstream's error body, decoded, is one of this dialect already."""
