"""docs/reference/errors.md, from the error tree, its gRPC codes and the front's own bodies."""

from __future__ import annotations

import inspect
import json

from docs_pages import NOTE, one_line, table
from first_core import errors
from first_core.errors import FirstError, UpstreamRejectedError
from first_core.types import UpstreamError
from first_gateway_http.dialects import ANTHROPIC, OPENAI
from first_gateway_http.errors import failure_of

INTRO = """\
# Errors

Every failure is one of these, on every carrier.
Over gRPC the status carries `google.rpc.ErrorInfo` with the reason and `domain` `first.v1`, where a wait is known `google.rpc.RetryInfo`, and where an upstream said something `first.v1.UpstreamError`.
Every changing value of the message also stands in `ErrorInfo.metadata`.
Over HTTP the body has the shape of the client's dialect, `x-request-id` names the request, and `Retry-After` tells the wait.
Python clients that use `first_core.client` get the class itself.
"""

RETRY = {
    errors.Retry.NEVER: "no",
    errors.Retry.AFTER_DELAY: "after the wait told",
    errors.Retry.BEFORE_FIRST_CHUNK: "before the first chunk",
}

OUTRO = """\
*Retry* says whether the same call may be tried again, by the gateway on another endpoint or by the client.

## What an upstream said

A 4xx of an upstream reaches the client with the upstream's status and message, whatever the table says for the class; so do its 429 and 503, which are `LIMIT_EXCEEDED` and `OVERLOADED`.
An upstream's error body up to 8 KiB stays as it was where it has the dialect's shape, and its sentence is put into that shape where it has not.

## In a stream

Before the first event an error is an HTTP status, as without a stream.
After it, the stream ends in an error event and without its end marker: `data: {"error": …}` for OpenAI's clients, `event: error` for the Responses API and Anthropic's clients.
A stream without its end marker is never a whole answer.

## Only over HTTP

Requests that never become a call have codes of their own, such as `route_not_found` (404), `method_not_allowed` (405) and those for bodies that are too large or come too slowly.
"""


def leaves(cls: type[FirstError] = FirstError) -> list[type[FirstError]]:
    """Return the classes of the tree that are raised, in its order."""
    below = [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
    return [leaf for sub in below for leaf in leaves(sub)] if below else [cls]


def page() -> str:
    """Return the page."""
    header = [
        "Class",
        "Reason",
        "gRPC code",
        "HTTP status",
        "OpenAI `type`",
        "Anthropic `type`",
        "Retry",
        "Meaning",
    ]
    lines = [NOTE, "", INTRO, *table(header, [_row(cls) for cls in leaves()]), "", OUTRO]
    return "\n".join(lines).rstrip() + "\n"


def _row(cls: type[FirstError]) -> list[str]:
    said = UpstreamError(400, "application/json", b"{}") if cls is UpstreamRejectedError else None
    failure = failure_of(cls("x", upstream=said), "id")
    openai = json.loads(OPENAI.error_body(failure, "id"))["error"]["type"]
    anthropic = json.loads(ANTHROPIC.error_body(failure, "id"))["error"]["type"]
    code, status = cls.code.name, str(failure.status)
    if cls is UpstreamRejectedError:
        code, status = f"by status, else {code}", "the upstream's"
        openai = anthropic = "by status"
    meaning = one_line((inspect.getdoc(cls) or "").split("\n\n", maxsplit=1)[0])
    names = [f"`{name}`" for name in (cls.__name__, cls.reason)]
    return [*names, code, status, openai, anthropic, RETRY[cls.retry], meaning]
