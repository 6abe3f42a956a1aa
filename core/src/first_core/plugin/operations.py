"""Operations as settings name them."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from first_core.types import Operation

_NAMES = [operation.name.lower() for operation in Operation]


def _parse(value: object) -> Operation:
    if isinstance(value, Operation):
        return value
    if not isinstance(value, str) or value not in _NAMES:
        raise ValueError(f"must be one of {', '.join(_NAMES)}")
    return Operation[value.upper()]


OperationName: TypeAlias = Annotated[
    Operation,
    PlainValidator(_parse),
    PlainSerializer(lambda operation: operation.name.lower(), return_type=str),
    WithJsonSchema({"type": "string", "enum": _NAMES}),
]
"""An operation, written in lower case: `chat`, `embedding`. For fields of a `Section`."""
