import datetime

from first_proto.v1 import common_pb2 as _common_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class StreamEventKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_EVENT_KIND_UNSPECIFIED: _ClassVar[StreamEventKind]
    STREAM_EVENT_KIND_HEAD: _ClassVar[StreamEventKind]
    STREAM_EVENT_KIND_DATA: _ClassVar[StreamEventKind]
    STREAM_EVENT_KIND_PROGRESS: _ClassVar[StreamEventKind]
    STREAM_EVENT_KIND_TRAILER: _ClassVar[StreamEventKind]

class UsageSource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_SOURCE_UNSPECIFIED: _ClassVar[UsageSource]
    USAGE_SOURCE_UPSTREAM: _ClassVar[UsageSource]
    USAGE_SOURCE_NONE: _ClassVar[UsageSource]
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BATCH: Priority
STREAM_EVENT_KIND_UNSPECIFIED: StreamEventKind
STREAM_EVENT_KIND_HEAD: StreamEventKind
STREAM_EVENT_KIND_DATA: StreamEventKind
STREAM_EVENT_KIND_PROGRESS: StreamEventKind
STREAM_EVENT_KIND_TRAILER: StreamEventKind
USAGE_SOURCE_UNSPECIFIED: UsageSource
USAGE_SOURCE_UPSTREAM: UsageSource
USAGE_SOURCE_NONE: UsageSource

class CallRequest(_message.Message):
    __slots__ = ("operation", "body", "content_type", "model", "pin", "session_key", "wait_budget", "first_chunk_timeout", "headers", "priority", "continuation_disabled")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    WAIT_BUDGET_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_DISABLED_FIELD_NUMBER: _ClassVar[int]
    operation: _common_pb2.Operation
    body: bytes
    content_type: str
    model: str
    pin: Pin
    session_key: str
    wait_budget: _duration_pb2.Duration
    first_chunk_timeout: _duration_pb2.Duration
    headers: _containers.ScalarMap[str, str]
    priority: Priority
    continuation_disabled: bool
    def __init__(self, operation: _Optional[_Union[_common_pb2.Operation, str]] = ..., body: _Optional[bytes] = ..., content_type: _Optional[str] = ..., model: _Optional[str] = ..., pin: _Optional[_Union[Pin, _Mapping]] = ..., session_key: _Optional[str] = ..., wait_budget: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., first_chunk_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., headers: _Optional[_Mapping[str, str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., continuation_disabled: _Optional[bool] = ...) -> None: ...

class Pin(_message.Message):
    __slots__ = ("cluster", "framework", "replica")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    framework: str
    replica: str
    def __init__(self, cluster: _Optional[str] = ..., framework: _Optional[str] = ..., replica: _Optional[str] = ...) -> None: ...

class CallResponse(_message.Message):
    __slots__ = ("body", "content_type", "head", "trailer")
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    content_type: str
    head: CallHead
    trailer: CallTrailer
    def __init__(self, body: _Optional[bytes] = ..., content_type: _Optional[str] = ..., head: _Optional[_Union[CallHead, _Mapping]] = ..., trailer: _Optional[_Union[CallTrailer, _Mapping]] = ...) -> None: ...

class StreamCallRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: CallRequest
    def __init__(self, call: _Optional[_Union[CallRequest, _Mapping]] = ...) -> None: ...

class StreamCallResponse(_message.Message):
    __slots__ = ("kind", "data", "head", "progress", "trailer")
    KIND_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    kind: StreamEventKind
    data: bytes
    head: CallHead
    progress: CallProgress
    trailer: CallTrailer
    def __init__(self, kind: _Optional[_Union[StreamEventKind, str]] = ..., data: _Optional[bytes] = ..., head: _Optional[_Union[CallHead, _Mapping]] = ..., progress: _Optional[_Union[CallProgress, _Mapping]] = ..., trailer: _Optional[_Union[CallTrailer, _Mapping]] = ...) -> None: ...

class CallHead(_message.Message):
    __slots__ = ("endpoint", "attempt_count", "content_type")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    endpoint: _common_pb2.EndpointRef
    attempt_count: int
    content_type: str
    def __init__(self, endpoint: _Optional[_Union[_common_pb2.EndpointRef, _Mapping]] = ..., attempt_count: _Optional[int] = ..., content_type: _Optional[str] = ...) -> None: ...

class CallProgress(_message.Message):
    __slots__ = ("state", "queue_position", "expected_wait")
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_POSITION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    state: _common_pb2.EndpointState
    queue_position: int
    expected_wait: _duration_pb2.Duration
    def __init__(self, state: _Optional[_Union[_common_pb2.EndpointState, str]] = ..., queue_position: _Optional[int] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CallTrailer(_message.Message):
    __slots__ = ("usage_source", "input_token_count", "output_token_count", "cached_token_count", "first_chunk_time", "duration", "finish_reasons", "continuation_count")
    USAGE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_TIME_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    CONTINUATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    usage_source: UsageSource
    input_token_count: int
    output_token_count: int
    cached_token_count: int
    first_chunk_time: _duration_pb2.Duration
    duration: _duration_pb2.Duration
    finish_reasons: _containers.RepeatedScalarFieldContainer[str]
    continuation_count: int
    def __init__(self, usage_source: _Optional[_Union[UsageSource, str]] = ..., input_token_count: _Optional[int] = ..., output_token_count: _Optional[int] = ..., cached_token_count: _Optional[int] = ..., first_chunk_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., finish_reasons: _Optional[_Iterable[str]] = ..., continuation_count: _Optional[int] = ...) -> None: ...
