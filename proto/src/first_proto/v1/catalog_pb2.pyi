import datetime

from first_proto.v1 import common_pb2 as _common_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ("cluster", "framework")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    framework: str
    def __init__(self, cluster: _Optional[str] = ..., framework: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("id", "create_time", "owner", "context_window_token_count", "operations", "state")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_WINDOW_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    id: str
    create_time: _timestamp_pb2.Timestamp
    owner: str
    context_window_token_count: int
    operations: _containers.RepeatedScalarFieldContainer[_common_pb2.Operation]
    state: _common_pb2.EndpointState
    def __init__(self, id: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., owner: _Optional[str] = ..., context_window_token_count: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[_common_pb2.Operation, str]]] = ..., state: _Optional[_Union[_common_pb2.EndpointState, str]] = ...) -> None: ...

class ListEndpointsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListEndpointsResponse(_message.Message):
    __slots__ = ("endpoints", "idle_backends")
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    IDLE_BACKENDS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    idle_backends: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., idle_backends: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchEndpointsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchEndpointsResponse(_message.Message):
    __slots__ = ("endpoints",)
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    def __init__(self, endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("ref", "state", "state_reason", "state_time", "expected_wait", "backend", "operations", "load")
    REF_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    ref: _common_pb2.EndpointRef
    state: _common_pb2.EndpointState
    state_reason: str
    state_time: _timestamp_pb2.Timestamp
    expected_wait: _duration_pb2.Duration
    backend: str
    operations: _containers.RepeatedScalarFieldContainer[_common_pb2.Operation]
    load: EndpointLoad
    def __init__(self, ref: _Optional[_Union[_common_pb2.EndpointRef, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.EndpointState, str]] = ..., state_reason: _Optional[str] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backend: _Optional[str] = ..., operations: _Optional[_Iterable[_Union[_common_pb2.Operation, str]]] = ..., load: _Optional[_Union[EndpointLoad, _Mapping]] = ...) -> None: ...

class EndpointLoad(_message.Message):
    __slots__ = ("running_count", "waiting_count", "cache_usage_ratio")
    RUNNING_COUNT_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_USAGE_RATIO_FIELD_NUMBER: _ClassVar[int]
    running_count: int
    waiting_count: int
    cache_usage_ratio: float
    def __init__(self, running_count: _Optional[int] = ..., waiting_count: _Optional[int] = ..., cache_usage_ratio: _Optional[float] = ...) -> None: ...

class ExplainRouteRequest(_message.Message):
    __slots__ = ("model", "operation", "cluster", "framework", "replica", "session_key")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    SESSION_KEY_FIELD_NUMBER: _ClassVar[int]
    model: str
    operation: _common_pb2.Operation
    cluster: str
    framework: str
    replica: str
    session_key: str
    def __init__(self, model: _Optional[str] = ..., operation: _Optional[_Union[_common_pb2.Operation, str]] = ..., cluster: _Optional[str] = ..., framework: _Optional[str] = ..., replica: _Optional[str] = ..., session_key: _Optional[str] = ...) -> None: ...

class ExplainRouteResponse(_message.Message):
    __slots__ = ("model", "policy", "candidates", "fallbacks", "outcome")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    FALLBACKS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    model: str
    policy: str
    candidates: _containers.RepeatedCompositeFieldContainer[RouteCandidate]
    fallbacks: _containers.RepeatedScalarFieldContainer[str]
    outcome: str
    def __init__(self, model: _Optional[str] = ..., policy: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[RouteCandidate, _Mapping]]] = ..., fallbacks: _Optional[_Iterable[str]] = ..., outcome: _Optional[str] = ...) -> None: ...

class RouteCandidate(_message.Message):
    __slots__ = ("endpoint", "chosen", "reason", "policy_note", "weight", "in_flight_count", "in_flight_limit", "queued_count", "first_chunk_time", "breaker_open", "spared_time")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CHOSEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    POLICY_NOTE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_LIMIT_FIELD_NUMBER: _ClassVar[int]
    QUEUED_COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_CHUNK_TIME_FIELD_NUMBER: _ClassVar[int]
    BREAKER_OPEN_FIELD_NUMBER: _ClassVar[int]
    SPARED_TIME_FIELD_NUMBER: _ClassVar[int]
    endpoint: Endpoint
    chosen: bool
    reason: str
    policy_note: str
    weight: float
    in_flight_count: int
    in_flight_limit: int
    queued_count: int
    first_chunk_time: _duration_pb2.Duration
    breaker_open: bool
    spared_time: _duration_pb2.Duration
    def __init__(self, endpoint: _Optional[_Union[Endpoint, _Mapping]] = ..., chosen: _Optional[bool] = ..., reason: _Optional[str] = ..., policy_note: _Optional[str] = ..., weight: _Optional[float] = ..., in_flight_count: _Optional[int] = ..., in_flight_limit: _Optional[int] = ..., queued_count: _Optional[int] = ..., first_chunk_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., breaker_open: _Optional[bool] = ..., spared_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...
