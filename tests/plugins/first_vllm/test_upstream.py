"""What is read of a server's answers about itself."""

from __future__ import annotations

import pytest

from first_core.types import EndpointLoad, Operation
from first_vllm.upstream import (
    ProbeError,
    ServedModel,
    parse_load,
    parse_models,
    parse_operations,
)

ONE_ENGINE = b"""# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
"""

TWO_ENGINES = b"""vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="1"} 4
vllm:gpu_cache_usage_perc{engine="0"} 0.1
vllm:gpu_cache_usage_perc{engine="1"} 0.7"""


def test_models_are_read_with_owner_and_window():
    """An adapter has the window of its parent, and unknown keys do no harm."""
    body = (
        b'{"object":"list","data":[{"id":"llama","object":"model","owned_by":"meta",'
        b'"max_model_len":8192,"permission":[{}]},'
        b'{"id":"tuned","parent":"llama","owned_by":null,"max_model_len":null},'
        b'{"id":"bare"}]}'
    )

    assert parse_models(body) == [
        ServedModel("llama", "meta", 8192),
        ServedModel("tuned", "", 8192),
        ServedModel("bare", "", 0),
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": 1}', b'{"data": [{}]}', b"<html>"])
def test_models_that_are_not_readable_are_told(body):
    """What is no list of models is no empty one."""
    with pytest.raises(ProbeError):
        parse_models(body)


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (ONE_ENGINE, EndpointLoad(3, 2, 0.25)),
        (TWO_ENGINES, EndpointLoad(7, None, 0.7)),
        (b"vllm:num_requests_waiting 5\r\n", EndpointLoad(None, 5, None)),
        (b'vllm:num_requests_running{m="a}\\" b 9"} 1e1\n', EndpointLoad(10, None, None)),
        (b"vllm:num_requests_running NaN\nvllm:num_requests_running +Inf\n", None),
        (b"vllm:num_requests_running_total 5\nvllm:num_requests_waiting_by_reason 5\n", None),
        (b"x vllm:num_requests_running 5\n", None),
        (b"", None),
        (b"<html>\xff", None),
    ],
)
def test_load_is_read_from_metrics(text, load):
    """Engines are summed, both names of the cache's figure are known, and rubbish is no load."""
    assert parse_load(text) == load


@pytest.mark.parametrize(
    ("body", "operations"),
    [
        (
            b'{"paths": {"/v1/chat/completions": {"post": {}}, "/tokenize": {}, "/health": {}}}',
            frozenset({Operation.CHAT, Operation.TOKENIZE}),
        ),
        (b'{"paths": {"/pets": {}}}', None),
        (b'{"openapi": "3.1.0"}', None),
        (b"<html>", None),
    ],
)
def test_operations_are_read_from_the_api_document(body, operations):
    """A document that lists none of ours tells nothing."""
    assert parse_operations(body) == operations
