"""A function as sites have it registered: the documented contract of today's FIRST, written anew.

It does what that function is documented to do, faults included: TLS is not verified, events lose
their empty lines, up to 20 lines go in one request, a request that fails is not repeated, and
nothing is numbered. Runs on the compute node, as source text.
"""

from __future__ import annotations

import json
import os
import time

import requests

requests.packages.urllib3.disable_warnings()

LINES_PER_REQUEST = 20
LONGEST_HOLD_S = 0.5


def registered(parameters):
    body = dict(parameters["model_params"])
    path, port = body.pop("openai_endpoint"), body.pop("api_port")
    headers = {"Authorization": "Bearer " + os.environ.get("OPENAI_API_KEY", "none")}
    begin_s = time.time()
    if path == "health":
        url = f"https://127.0.0.1:{port}/health"
        response = requests.get(url, headers=headers, verify=False, timeout=120)
    else:
        url = f"https://127.0.0.1:{port}/v1/{path}"
        if body.get("stream"):
            return _stream(url, headers, body)
        response = requests.post(url, headers=headers, json=body, verify=False)
    try:
        if response.status_code != 200:
            raise Exception(
                f"API request failed with status code: {response.status_code}\n"
                f"Response text: {response.text}\nResponse headers: {dict(response.headers)}"
            )
    except Exception as exc:
        raise Exception(
            f"Unexpected error of type {type(exc).__name__}: {exc}\n"
            f"Response time: {time.time() - begin_s}"
        )
    spent_s = time.time() - begin_s
    try:
        answer = response.json()
    except ValueError:
        answer = {"completion": response.text}
    rate = answer.get("usage", {}).get("total_tokens", 0) / spent_s
    added = {"response_time": spent_s, "throughput_tokens_per_second": rate}
    return json.dumps({**answer, **added}, indent=4)


def _stream(url, headers, body):
    place = {
        key: body.pop(key)
        for key in list(body)
        if key.startswith(("streaming_server_", "stream_task_"))
    }
    total = sent = 0
    try:
        response = requests.post(url, headers=headers, json=body, stream=True, verify=False)
        if response.status_code != 200:
            raise Exception(
                f"API request failed with status code: {response.status_code}\n"
                f"Response text: {response.text}"
            )
        held, last_s = [], time.time()
        for line in response.iter_lines():
            text = line.decode()
            is_end = text.strip() == "data: [DONE]"
            if text.strip() and not is_end:
                held.append(text)
                total += 1
            due = len(held) >= LINES_PER_REQUEST or time.time() - last_s >= LONGEST_HOLD_S
            if held and (is_end or due):
                if _post(place, "data", data="\n".join(held)):
                    sent += len(held)
                held, last_s = [], time.time()
            if is_end:
                _post(place, "done")
                break
        return json.dumps(
            {
                "streaming": True,
                "task_id": place["stream_task_id"],
                "status": "completed",
                "total_tokens": 0,
                "total_chunks": total,
                "chunks_sent_to_server": sent,
            }
        )
    except Exception as exc:
        _post(place, "error", error=str(exc))
        return json.dumps({"streaming": True, "status": "error", "error": str(exc)})


def _post(place, kind, **fields):
    base = "{streaming_server_protocol}://{streaming_server_host}:{streaming_server_port}"
    url = f"{base.format(**place)}/resource_server/api/streaming/{kind}/"
    headers = {
        "X-Internal-Secret": os.environ.get("INTERNAL_STREAMING_SECRET", "default"),
        "X-Stream-Task-Token": place["stream_task_token"],
    }
    payload = {"task_id": place["stream_task_id"], "type": kind, **fields}
    try:
        response = requests.post(url, json=payload, headers=headers, timeout=2, verify=False)
    except requests.RequestException:
        return False
    return response.status_code == 200
