"""The methods that one side of a link serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import grpc


class Servicers:
    """Filled by the generated `add_…Servicer_to_server`, as a server is."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """Ignore: the generated code also names each method, see the next one."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Take the methods of one service.

        Raises:
            ValueError: One of them streams requests; a link does not carry that.
        """
        for name, handler in handlers.items():
            if handler.request_streaming:
                raise ValueError(f"/{service}/{name} streams requests; a link does not carry that")
            self._handlers[f"/{service}/{name}"] = handler

    def find(self, method: str) -> Any:
        """Return the handler of a method; `None`: it is not served."""
        return self._handlers.get(method)
