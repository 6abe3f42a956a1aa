"""Errors as vLLM's OpenAI server words them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec


class ApiError(Exception):
    """A call that ends in an error answer."""

    def __init__(
        self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """Return the OpenAI error body."""
        return error_body(self.status, self.message, kind=self.kind, param=self.param)


class AnthropicError(ApiError):
    """The same in the shape of the Anthropic routes."""

    def body(self) -> bytes:
        """Return the Anthropic error body."""
        error = {"type": self.kind, "message": self.message}
        return msgspec.json.encode({"type": "error", "error": error})


def error_body(status: int, message: str, *, kind: str = "", param: str | None = None) -> bytes:
    """Return vLLM's error body; without `kind` it follows from `status`."""
    return msgspec.json.encode({"error": error_fields(status, message, kind=kind, param=param)})


def error_fields(
    status: int, message: str, *, kind: str = "", param: str | None = None
) -> dict[str, Any]:
    """Return what stands under `error` in an error body."""
    return {
        "message": message,
        "type": kind or _kind_of(status),
        "param": param,
        "code": status,
    }


def _kind_of(status: int) -> str:
    kinds = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
    if status in kinds:
        return kinds[status]
    try:
        return HTTPStatus(status).phrase.replace(" ", "") + "Error"
    except ValueError:
        return "OverloadedError"


def unknown_model(model: str) -> ApiError:
    """Return the error for a model that is not served here."""
    message = f"The model `{model}` does not exist."
    return ApiError(404, message, kind="NotFoundError", param="model")


def prompt_too_long(limit: int, prompt: int, output: int) -> ApiError:
    """Return the error for a prompt, or prompt and answer, past the context length."""
    message = (
        f"This model's maximum context length is {limit} tokens. However, you requested "
        f"{output} output tokens and your prompt contains at least {prompt} input tokens, "
        f"for a total of at least {prompt + output} tokens. Please reduce the length of the "
        "input prompt or the number of requested output tokens."
    )
    return ApiError(400, message, param="input_tokens")
