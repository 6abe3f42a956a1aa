"""What registered functions are sent and what they answer, as sites have them registered.

The argument is `{"model_params": {…body…, "openai_endpoint", "api_port"}}`; a body's own bytes
stand in it unchanged, since keys are spliced in and nothing is encoded anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from first_core.errors import (
    BackendUnavailableError,
    FirstError,
    InvalidRequestError,
    UnsupportedError,
)
from first_core.plugin import Answer
from first_core.plugin.http import errors
from first_core.plugin.http.bodies import NoJsonError, embedded_error, status_of
from first_core.plugin.http.transport import Head
from first_globus.buffers import UnreadableResultError, pack_arguments, read_value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from first_core.plugin import Call
    from first_globus.buffers import TaskResult

MAX_RESULT_BYTES: Final = 10 * 1024 * 1024
"""Largest result that agents pass on. Source: their `MaxResultSizeExceeded`."""

_JSON: Final = "application/json"

_FAILED: Final = re.compile(
    r"API request failed with status code: (\d{3})\s*\nResponse text: (.*?)"
    r"(?=\nResponse headers: |\nResponse time: |\n?\Z)",
    re.DOTALL,
)
"""How functions tell that the inference server refused the call; it may stand in a traceback."""

_TRACEBACK_TAIL: Final = re.compile(
    r"\n\n(During handling|The above exception|Traceback) .*", re.DOTALL
)


class _Reserved(msgspec.Struct):
    """Keys of a body that would steer the function or the stream instead of the model."""

    api_port: msgspec.Raw = msgspec.Raw(b"")
    openai_endpoint: msgspec.Raw = msgspec.Raw(b"")
    stream_task_id: msgspec.Raw = msgspec.Raw(b"")
    stream_task_token: msgspec.Raw = msgspec.Raw(b"")
    streaming_server_host: msgspec.Raw = msgspec.Raw(b"")
    streaming_server_port: msgspec.Raw = msgspec.Raw(b"")
    streaming_server_protocol: msgspec.Raw = msgspec.Raw(b"")


_reserved = msgspec.json.Decoder(_Reserved)


class _Wrapped(msgspec.Struct):
    """What today's function makes of an answer that is no JSON."""

    completion: str
    response_time: float
    throughput_tokens_per_second: float


_wrapped = msgspec.json.Decoder(_Wrapped)


def task_arguments(call: Call, *, api_port: int, extra: Mapping[str, Any] | None = None) -> str:
    """Return the packed arguments of the task that runs a call.

    Args:
        call: A JSON object as body.
        api_port: Port of the inference server.
        extra: Further keys: where the chunks of a stream go.

    Raises:
        InvalidRequestError: The body is no JSON object, or has keys that are reserved.
        UnsupportedError: The operation does not go through a task.
    """
    path = call.operation.path
    if not path.startswith("v1/") or not call.content_type.startswith(_JSON):
        raise UnsupportedError("this cluster takes JSON bodies below /v1/ only")
    _refuse_reserved(call.body)
    try:
        body = call.body.decode().rstrip()
    except UnicodeDecodeError as exc:
        raise InvalidRequestError("the body is not UTF-8") from exc
    keys = {"openai_endpoint": path.removeprefix("v1/"), "api_port": api_port, **(extra or {})}
    added = msgspec.json.encode(keys).decode()
    inner = body[:-1].rstrip()
    comma = "" if inner.endswith("{") and inner.strip() == "{" else ","
    return pack_arguments(f'{{"model_params":{inner}{comma}{added[1:]}}}')


def _refuse_reserved(body: bytes) -> None:
    try:
        found = _reserved.decode(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError("the body is no JSON object") from exc
    for name in _Reserved.__struct_fields__:
        if bytes(getattr(found, name)):
            raise InvalidRequestError(
                f"{name} is reserved and must not stand in the body", metadata={"key": name}
            )


def answer_of(result: TaskResult, *, now_s: float) -> Answer:
    """Return the answer in a task's result.

    Raises:
        FirstError: The call failed; a 4xx or 5xx of the inference server as what it was.
    """
    return answer_of_text(text_of(result, now_s=now_s).encode(), now_s=now_s)


def answer_of_text(body: bytes, *, now_s: float) -> Answer:
    """Return the answer in what a function returned or sent.

    Raises:
        FirstError: It is none, or an error in disguise.
    """
    try:
        error = embedded_error(body)
    except NoJsonError as exc:
        raise errors.no_answer() from exc
    if _is_wrapped(body):
        raise errors.no_answer()
    if error is not None:
        raise errors.from_status(
            Head(status_of(error) or 500, _HEADERS), body, now_s=now_s, secrets=()
        )
    return Answer(body, _JSON)


def _is_wrapped(body: bytes) -> bool:
    if b'"completion"' not in body[:64]:
        return False
    try:
        _wrapped.decode(body)
    except (ValueError, RecursionError):
        return False
    return True


def text_of(result: TaskResult, *, now_s: float) -> str:
    """Return the text that a function returned.

    Raises:
        FirstError: It returned none.
    """
    if result.error_code:
        raise failure(result, now_s=now_s)
    try:
        return read_value(result.data)
    except UnreadableResultError as exc:
        raise BackendUnavailableError(
            "the cluster's function answered in a form that is not read; it must return JSON"
        ) from exc


_HEADERS: Final = ((b"content-type", b"application/json"),)


def failure(result: TaskResult, *, now_s: float) -> FirstError:
    """Return the error for a task that failed."""
    code = result.error_code
    if code == "MaxResultSizeExceeded":
        return UnsupportedError(
            f"the answer exceeds the {MAX_RESULT_BYTES // 2**20} MiB that a task may return; "
            "ask for a stream or a smaller answer, or have the cluster served through a relay",
            metadata={"max_result_bytes": str(MAX_RESULT_BYTES)},
        )
    if code == "FUNCTION_NOT_ALLOWED":
        return BackendUnavailableError(
            "the cluster's endpoint does not allow the gateway's function", work_started=False
        )
    found = refusal_in(result.data, now_s=now_s)
    if found is not None:
        return found
    if "Network error occurred" in result.data:
        return BackendUnavailableError("the inference server cannot be reached on its node")
    if "WorkerLost" in result.data or "ManagerLost" in result.data:
        return BackendUnavailableError("the process that ran the call was lost")
    return BackendUnavailableError("the cluster's function failed", metadata={"code": code})


def refusal_in(text: str, *, now_s: float) -> FirstError | None:
    """Return the inference server's own refusal as a function quotes it; `None`: there is none."""
    found = _FAILED.search(text)
    if found is None:
        return None
    body = _TRACEBACK_TAIL.sub("", found[2]).strip().encode()
    return errors.from_status(Head(int(found[1]), _HEADERS), body, now_s=now_s, secrets=())
