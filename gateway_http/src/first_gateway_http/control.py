"""The control fields of a body: decoded in part, while the bytes go on as they came."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import msgspec

from first_gateway_http.errors import invalid

if TYPE_CHECKING:
    from first_core.errors import InvalidRequestError

MAX_MODEL_CHARS: Final = 512
"""Longest model name. The name stands in messages and headers; Hugging Face ids have up to 193."""


class Control(msgspec.Struct, gc=False):
    """What the front must know of a body. Other fields are not looked at."""

    model: str
    stream: bool | None = None


_decode: Final = msgspec.json.Decoder(Control).decode
_FIELD: Final = re.compile(r"`\$\.(\w+)`|field `(\w+)`")


def read_control(body: bytes) -> Control:
    """Decode the control fields of a JSON body.

    Raises:
        InvalidRequestError: The body is no JSON object in UTF-8, or a control field is wrong;
            `metadata["field"]` names it.
    """
    if not body:
        raise invalid("the body is empty; send a JSON object", "body")
    try:
        if not body.isascii():
            body.decode()  # msgspec looks at UTF-8 only in what it decodes
        control = _decode(body)
    except UnicodeDecodeError as exc:
        raise invalid(f"the body is not UTF-8 text (byte {exc.start})", "body") from None
    except msgspec.ValidationError as exc:
        raise _wrong_field(exc) from None
    except msgspec.DecodeError as exc:
        raise invalid(f"the body is not valid JSON: {_told(exc)}", "body") from None
    except RecursionError:
        raise invalid("the body is nested too deeply", "body") from None
    check_model(control.model)
    return control


def check_model(model: str) -> None:
    """Refuse a model name that can be none.

    Raises:
        InvalidRequestError: It is empty or too long.
    """
    if not model.strip():
        raise invalid("`model` is empty; name a model", "model")
    if len(model) > MAX_MODEL_CHARS:
        raise invalid(f"`model` is longer than {MAX_MODEL_CHARS} characters", "model")


def _told(exc: msgspec.DecodeError) -> str:
    return str(exc).removeprefix("JSON is malformed: ")


def _wrong_field(exc: msgspec.ValidationError) -> InvalidRequestError:
    text = str(exc)
    found = _FIELD.search(text)
    if found is None:
        return invalid(f"the body must be a JSON object: {text}", "body")
    name = found[1] or found[2]
    if found[2]:
        return invalid(f"`{name}` is missing", name)
    return invalid(f"`{name}`: {text.partition(' - at ')[0]}", name)
