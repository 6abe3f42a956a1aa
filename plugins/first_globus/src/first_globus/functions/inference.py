"""Runs one call on the compute node where the inference server is.

This file is registered as source text and runs there alone: it needs Python 3.9 and nothing else.
It reads from the environment of its endpoint:

- `OPENAI_API_KEY`: credential for the inference server.
- `FIRST_SERVER_CA_FILE`: certificates that the server's own is checked against; a self-signed one
  may stand there itself. Default: those of the machine.
- `FIRST_SERVER_SCHEME`: `http` for a server without TLS, which others on the node can listen to.
- `INTERNAL_STREAMING_SECRET`, `FIRST_GATEWAY_CA_FILE`: the same for the way to the gateway.
- `https_proxy`, `http_proxy`, `no_proxy`: the way out of the node.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import ssl
import threading
import time
import urllib.request
from typing import Any
from urllib.parse import urlsplit

SERVER_TIMEOUT_S = 3600
SEND_TIMEOUT_S = 30
SEND_TRIES = 8
ANSWER_CHARS = 512 * 1024
ANSWER_TRIES = 3  # then it is returned instead
GROUP_PIECES = 16  # of 64 KiB each at most, so that no request exceeds what the gateway takes
STREAM_KEYS = (
    "streaming_server_host",
    "streaming_server_port",
    "streaming_server_protocol",
    "stream_task_id",
    "stream_task_token",
)


def first_inference(parameters: dict[str, Any]) -> str:
    """Answer `{"model_params": {…body…, "openai_endpoint", "api_port"}}`.

    Returns:
        The server's answer as it was, or for a stream, JSON text with what was sent.
    """
    body = dict(parameters["model_params"])
    path = body.pop("openai_endpoint")
    port = body.pop("api_port")
    destination = {key: body.pop(key) for key in STREAM_KEYS if key in body}
    if path == "health":
        return _whole(port, "GET", "/health", None)
    if body.get("stream") and destination:
        return _stream(port, f"/v1/{path}", body, destination)
    if destination:
        return _pushed(port, f"/v1/{path}", body, _Gateway(destination, tries=ANSWER_TRIES))
    return _whole(port, "POST", f"/v1/{path}", body)


def _pushed(port: int, path: str, body: dict[str, Any], gateway: _Gateway) -> str:
    """Send the whole answer as a stream is sent; return it where the gateway cannot be reached."""
    try:
        text = _whole(port, "POST", path, body)
    except RuntimeError as exc:
        with contextlib.suppress(_NobodyWaits, _NotTakenError):
            gateway.post("error", {"error": str(exc), "type": "error"})
        raise
    try:
        for begin in range(0, len(text), ANSWER_CHARS):
            gateway.send(text[begin : begin + ANSWER_CHARS])
        gateway.post("done", {"type": "done", "groups": gateway.count})
    except _NotTakenError:
        return text
    except _NobodyWaits:
        return json.dumps({"streaming": True, "status": "error", "error": "nobody waits"})
    return json.dumps({"streaming": True, "status": "completed", "groups": gateway.count})


def _whole(port: int, method: str, path: str, body: dict[str, Any] | None) -> str:
    connection, response = _ask(port, method, path, body)
    try:
        text = response.read().decode("utf-8", "replace")
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(_refusal(response.status, text))
    return text or "{}"


def _ask(
    port: int, method: str, path: str, body: dict[str, Any] | None
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    if os.environ.get("FIRST_SERVER_SCHEME") == "http":
        connection: http.client.HTTPConnection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=SERVER_TIMEOUT_S
        )
    else:
        context = ssl.create_default_context(cafile=os.environ.get("FIRST_SERVER_CA_FILE"))
        connection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=SERVER_TIMEOUT_S, context=context
        )
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = "Bearer " + os.environ["OPENAI_API_KEY"]
    data = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8")
    try:
        connection.request(method, path, data, headers)
        return connection, connection.getresponse()
    except OSError as exc:
        connection.close()
        raise RuntimeError(f"Network error occurred: {exc}") from None


def _refusal(status: int, text: str) -> str:
    return f"API request failed with status code: {status}\nResponse text: {text}"


def _stream(port: int, path: str, body: dict[str, Any], destination: dict[str, Any]) -> str:
    gateway = _Gateway(destination)
    begin_s = time.monotonic()
    connection, response = _ask(port, "POST", path, body)
    try:
        if response.status != 200:
            message = _refusal(response.status, response.read().decode("utf-8", "replace"))
            gateway.post("error", {"error": message, "type": "error"})
            raise RuntimeError(message)
        usage, broken = _pass_on(response, gateway)
    except _NobodyWaits:
        return json.dumps({"streaming": True, "status": "error", "error": "nobody waits"})
    finally:
        connection.close()
    if broken:
        gateway.post("error", {"error": broken, "type": "error"})
        return json.dumps({"streaming": True, "status": "error", "error": broken})
    gateway.post("done", {"type": "done", "groups": gateway.count})
    return json.dumps(
        {
            "streaming": True,
            "status": "completed",
            "groups": gateway.count,
            "usage": usage,
            "response_time": time.monotonic() - begin_s,
        }
    )


def _pass_on(response: http.client.HTTPResponse, gateway: _Gateway) -> tuple[Any, str]:
    """Send what has come in, all of it together, while the next is being read."""
    pieces: queue.Queue[Any] = queue.Queue(maxsize=1000)
    stopped = threading.Event()
    reader = threading.Thread(target=_read, args=(response, pieces, stopped), daemon=True)
    reader.start()
    usage = None
    rest = b""
    try:
        while True:
            data, end = _waiting(pieces)
            rest += data
            cut = len(rest) if end is not None else rest.rfind(b"\n") + 1
            if cut:
                usage = _usage(rest[:cut]) or usage
                gateway.send(rest[:cut].decode("utf-8", "replace"))
                rest = rest[cut:]
            if end is not None:
                return usage, end
    finally:
        stopped.set()


def _read(
    response: http.client.HTTPResponse, pieces: queue.Queue[Any], stopped: threading.Event
) -> None:
    end = ""
    try:
        while not stopped.is_set():
            data = response.read1(65536)
            if not data:
                break
            pieces.put(data)
    except (OSError, http.client.HTTPException, ValueError) as exc:
        end = f"the server's answer broke off: {type(exc).__name__}"
    pieces.put(end)


def _waiting(pieces: queue.Queue[Any]) -> tuple[bytes, str | None]:
    """Return all that waits, and how it ended: empty when well, `None` when it goes on."""
    found = [pieces.get()]
    while isinstance(found[-1], bytes) and len(found) < GROUP_PIECES:
        try:
            found.append(pieces.get_nowait())
        except queue.Empty:
            break
    end = found.pop() if isinstance(found[-1], str) else None
    return b"".join(found), end


def _usage(data: bytes) -> Any:
    if b'"usage"' not in data:
        return None
    for line in reversed(data.splitlines()):
        if line.startswith(b"data:") and b'"usage"' in line:
            try:
                usage = json.loads(line[5:]).get("usage")
            except (ValueError, AttributeError):
                continue
            if usage:
                return usage
    return None


class _NobodyWaits(Exception):  # noqa: N818 - told in its name
    """The gateway waits for this stream no more: its client has left."""


class _NotTakenError(RuntimeError):
    """The gateway could not be reached, or did not take what was sent."""


class _Gateway:
    """Sends numbered chunks; each is sent again until it has arrived once."""

    def __init__(self, destination: dict[str, Any], tries: int = SEND_TRIES) -> None:
        self._tries = tries
        self.count = 0
        self._scheme: str = destination["streaming_server_protocol"]
        self._host: str = destination["streaming_server_host"]
        self._port = int(destination["streaming_server_port"])
        self._task_id = destination["stream_task_id"]
        self._connection: http.client.HTTPConnection | None = None
        self._is_absolute = False
        self._headers = {
            "Content-Type": "application/json",
            "X-Internal-Secret": os.environ.get("INTERNAL_STREAMING_SECRET", ""),
            "X-Stream-Task-Token": destination["stream_task_token"],
        }

    def send(self, text: str) -> None:
        self.count += 1
        self.post("data", {"data": text, "type": "data", "seq": self.count})

    def post(self, kind: str, fields: dict[str, Any]) -> None:
        data = json.dumps({"task_id": self._task_id, **fields}).encode("utf-8")
        problem = ""
        for attempt in range(self._tries):
            if attempt:
                time.sleep(min(0.1 * 2**attempt, 5.0))
            try:
                status = self._try(f"/resource_server/api/streaming/{kind}/", data)
            except (OSError, http.client.HTTPException) as exc:
                self._close()
                problem = type(exc).__name__
                continue
            if status == 200:
                return
            if status in (404, 410):
                raise _NobodyWaits
            problem = f"HTTP {status}"
            if status < 500 and status not in (408, 429):
                break
        raise _NotTakenError(f"the gateway did not take a chunk: {problem}")

    def _try(self, path: str, data: bytes) -> int:
        if self._connection is None:
            self._connection = self._connect()
        target = path
        if self._is_absolute:
            target = f"http://{self._host}:{self._port}{path}"
        self._connection.request("POST", target, data, self._headers)
        response = self._connection.getresponse()
        response.read()
        return response.status

    def _connect(self) -> http.client.HTTPConnection:
        proxies = urllib.request.getproxies()
        proxy = proxies.get(self._scheme)
        if proxy and urllib.request.proxy_bypass(f"{self._host}:{self._port}"):
            proxy = None
        self._is_absolute = bool(proxy) and self._scheme == "http"
        place = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}")
        host, port = (place.hostname or "", place.port or 80) if proxy else (self._host, self._port)
        if self._scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=SEND_TIMEOUT_S)
        context = ssl.create_default_context(cafile=os.environ.get("FIRST_GATEWAY_CA_FILE"))
        connection = http.client.HTTPSConnection(
            host, port, timeout=SEND_TIMEOUT_S, context=context
        )
        if proxy:
            connection.set_tunnel(self._host, self._port)
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
