"""Calls of the tools that a client offers, with arguments that fit their schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from first_core.testing.simulator import tokenizer
from first_core.testing.simulator.errors import ApiError
from first_core.testing.simulator.generation import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence


class Function(msgspec.Struct):
    """A function that the model may call."""

    name: str
    parameters: dict[str, Any] | None = None


def call(function: Function, *, limit: int, finish: str) -> Answer:
    """Return the arguments of a call of `function`, token by token."""
    pieces = tokenizer.pieces(arguments(function))
    if len(pieces) > limit:
        return Answer(pieces[:limit], limit, "length")
    return Answer(pieces, len(pieces), finish)


def arguments(function: Function) -> str:
    """Return JSON arguments: the required properties, or all where none is required."""
    schema = function.parameters or {}
    return msgspec.json.encode(_object(schema, depth=0)).decode()


def named(functions: Sequence[Function], name: str) -> Function:
    """Return the function called `name`."""
    for function in functions:
        if function.name == name:
            return function
    message = (
        f"The tool specified in `tool_choice` does not match any of the specified `tools`: {name}"
    )
    raise ApiError(400, message, param="tool_choice")


def _object(schema: dict[str, Any], *, depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return {}
    required = schema.get("required") or list(properties)
    return {name: _value(properties.get(name), name, depth=depth + 1) for name in required}


def _value(schema: Any, name: str, *, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > 5:  # noqa: PLR2004 - schemas may refer to themselves
        return f"simulated {name}"
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return options[0]
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, depth=depth)
    if kind == "array":
        return [_value(schema.get("items"), name, depth=depth)]
    plain = {"integer": 42, "number": 4.2, "boolean": True, "null": None}
    return plain[kind] if isinstance(kind, str) and kind in plain else f"simulated {name} é漢🙂"
