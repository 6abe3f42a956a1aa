import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FrameKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FRAME_KIND_UNSPECIFIED: _ClassVar[FrameKind]
    FRAME_KIND_HELLO: _ClassVar[FrameKind]
    FRAME_KIND_CALL: _ClassVar[FrameKind]
    FRAME_KIND_MESSAGE: _ClassVar[FrameKind]
    FRAME_KIND_END: _ClassVar[FrameKind]
    FRAME_KIND_CANCEL: _ClassVar[FrameKind]
    FRAME_KIND_CREDIT: _ClassVar[FrameKind]
    FRAME_KIND_PING: _ClassVar[FrameKind]
    FRAME_KIND_PONG: _ClassVar[FrameKind]
    FRAME_KIND_GOAWAY: _ClassVar[FrameKind]
    FRAME_KIND_PART: _ClassVar[FrameKind]
FRAME_KIND_UNSPECIFIED: FrameKind
FRAME_KIND_HELLO: FrameKind
FRAME_KIND_CALL: FrameKind
FRAME_KIND_MESSAGE: FrameKind
FRAME_KIND_END: FrameKind
FRAME_KIND_CANCEL: FrameKind
FRAME_KIND_CREDIT: FrameKind
FRAME_KIND_PING: FrameKind
FRAME_KIND_PONG: FrameKind
FRAME_KIND_GOAWAY: FrameKind
FRAME_KIND_PART: FrameKind

class ConnectRequest(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[Frame, _Mapping]]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("kind", "call_id", "method", "timeout", "metadata", "message", "code", "details", "not_started", "credit_bytes", "hello", "more")
    KIND_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    NOT_STARTED_FIELD_NUMBER: _ClassVar[int]
    CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    kind: FrameKind
    call_id: int
    method: str
    timeout: _duration_pb2.Duration
    metadata: _containers.RepeatedCompositeFieldContainer[Metadatum]
    message: bytes
    code: int
    details: str
    not_started: bool
    credit_bytes: int
    hello: Hello
    more: bool
    def __init__(self, kind: _Optional[_Union[FrameKind, str]] = ..., call_id: _Optional[int] = ..., method: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., metadata: _Optional[_Iterable[_Union[Metadatum, _Mapping]]] = ..., message: _Optional[bytes] = ..., code: _Optional[int] = ..., details: _Optional[str] = ..., not_started: _Optional[bool] = ..., credit_bytes: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., more: _Optional[bool] = ...) -> None: ...

class Metadatum(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("major_version", "minor_version", "max_message_bytes", "max_call_count", "max_metadata_bytes", "initial_credit_bytes")
    MAJOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    MINOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_METADATA_BYTES_FIELD_NUMBER: _ClassVar[int]
    INITIAL_CREDIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    major_version: int
    minor_version: int
    max_message_bytes: int
    max_call_count: int
    max_metadata_bytes: int
    initial_credit_bytes: int
    def __init__(self, major_version: _Optional[int] = ..., minor_version: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_call_count: _Optional[int] = ..., max_metadata_bytes: _Optional[int] = ..., initial_credit_bytes: _Optional[int] = ...) -> None: ...
