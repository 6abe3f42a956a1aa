from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_CHAT: _ClassVar[Operation]
    OPERATION_COMPLETION: _ClassVar[Operation]
    OPERATION_EMBEDDING: _ClassVar[Operation]
    OPERATION_RESPONSE: _ClassVar[Operation]
    OPERATION_MESSAGE: _ClassVar[Operation]
    OPERATION_RERANK: _ClassVar[Operation]
    OPERATION_SCORE: _ClassVar[Operation]
    OPERATION_TOKENIZE: _ClassVar[Operation]
    OPERATION_DETOKENIZE: _ClassVar[Operation]
    OPERATION_TRANSCRIPTION: _ClassVar[Operation]
    OPERATION_MESSAGE_TOKEN_COUNT: _ClassVar[Operation]

class EndpointState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENDPOINT_STATE_UNSPECIFIED: _ClassVar[EndpointState]
    ENDPOINT_STATE_COLD: _ClassVar[EndpointState]
    ENDPOINT_STATE_QUEUED: _ClassVar[EndpointState]
    ENDPOINT_STATE_STARTING: _ClassVar[EndpointState]
    ENDPOINT_STATE_READY: _ClassVar[EndpointState]
    ENDPOINT_STATE_DRAINING: _ClassVar[EndpointState]
    ENDPOINT_STATE_DOWN: _ClassVar[EndpointState]
OPERATION_UNSPECIFIED: Operation
OPERATION_CHAT: Operation
OPERATION_COMPLETION: Operation
OPERATION_EMBEDDING: Operation
OPERATION_RESPONSE: Operation
OPERATION_MESSAGE: Operation
OPERATION_RERANK: Operation
OPERATION_SCORE: Operation
OPERATION_TOKENIZE: Operation
OPERATION_DETOKENIZE: Operation
OPERATION_TRANSCRIPTION: Operation
OPERATION_MESSAGE_TOKEN_COUNT: Operation
ENDPOINT_STATE_UNSPECIFIED: EndpointState
ENDPOINT_STATE_COLD: EndpointState
ENDPOINT_STATE_QUEUED: EndpointState
ENDPOINT_STATE_STARTING: EndpointState
ENDPOINT_STATE_READY: EndpointState
ENDPOINT_STATE_DRAINING: EndpointState
ENDPOINT_STATE_DOWN: EndpointState

class EndpointRef(_message.Message):
    __slots__ = ("cluster", "framework", "model", "replica")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FRAMEWORK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    framework: str
    model: str
    replica: str
    def __init__(self, cluster: _Optional[str] = ..., framework: _Optional[str] = ..., model: _Optional[str] = ..., replica: _Optional[str] = ...) -> None: ...
