import datetime

from first_proto.v1 import catalog_pb2 as _catalog_pb2
from first_proto.v1 import common_pb2 as _common_pb2
from first_proto.v1 import inference_pb2 as _inference_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchCatalogRequest(_message.Message):
    __slots__ = ("gateway",)
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    def __init__(self, gateway: _Optional[str] = ...) -> None: ...

class WatchCatalogResponse(_message.Message):
    __slots__ = ("gateway", "offers")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, gateway: _Optional[str] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("ref", "state", "state_reason", "operations", "load", "context_window_token_count", "expected_wait", "continues_messages", "streams_usage", "via", "owner")
    REF_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_WINDOW_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_WAIT_FIELD_NUMBER: _ClassVar[int]
    CONTINUES_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    STREAMS_USAGE_FIELD_NUMBER: _ClassVar[int]
    VIA_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    ref: _common_pb2.EndpointRef
    state: _common_pb2.EndpointState
    state_reason: str
    operations: _containers.RepeatedScalarFieldContainer[_common_pb2.Operation]
    load: _catalog_pb2.EndpointLoad
    context_window_token_count: int
    expected_wait: _duration_pb2.Duration
    continues_messages: bool
    streams_usage: bool
    via: _containers.RepeatedScalarFieldContainer[str]
    owner: str
    def __init__(self, ref: _Optional[_Union[_common_pb2.EndpointRef, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.EndpointState, str]] = ..., state_reason: _Optional[str] = ..., operations: _Optional[_Iterable[_Union[_common_pb2.Operation, str]]] = ..., load: _Optional[_Union[_catalog_pb2.EndpointLoad, _Mapping]] = ..., context_window_token_count: _Optional[int] = ..., expected_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., continues_messages: _Optional[bool] = ..., streams_usage: _Optional[bool] = ..., via: _Optional[_Iterable[str]] = ..., owner: _Optional[str] = ...) -> None: ...

class CallRequest(_message.Message):
    __slots__ = ("call", "passage")
    CALL_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    call: _inference_pb2.CallRequest
    passage: Passage
    def __init__(self, call: _Optional[_Union[_inference_pb2.CallRequest, _Mapping]] = ..., passage: _Optional[_Union[Passage, _Mapping]] = ...) -> None: ...

class StreamCallRequest(_message.Message):
    __slots__ = ("call", "passage")
    CALL_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    call: _inference_pb2.StreamCallRequest
    passage: Passage
    def __init__(self, call: _Optional[_Union[_inference_pb2.StreamCallRequest, _Mapping]] = ..., passage: _Optional[_Union[Passage, _Mapping]] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("hops", "hop_budget", "principal")
    HOPS_FIELD_NUMBER: _ClassVar[int]
    HOP_BUDGET_FIELD_NUMBER: _ClassVar[int]
    PRINCIPAL_FIELD_NUMBER: _ClassVar[int]
    hops: _containers.RepeatedScalarFieldContainer[str]
    hop_budget: int
    principal: AssertedPrincipal
    def __init__(self, hops: _Optional[_Iterable[str]] = ..., hop_budget: _Optional[int] = ..., principal: _Optional[_Union[AssertedPrincipal, _Mapping]] = ...) -> None: ...

class AssertedPrincipal(_message.Message):
    __slots__ = ("id", "tenant")
    ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    id: str
    tenant: str
    def __init__(self, id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...
