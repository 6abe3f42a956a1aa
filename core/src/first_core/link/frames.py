"""Frames: their kinds, what they count, and metadata on its way in and out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import grpc

from first_core.link.status import LinkError, Metadata, broken
from first_proto.link.v1 import link_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from first_core.link.options import LinkOptions

HELLO: Final = link_pb2.FRAME_KIND_HELLO
CALL: Final = link_pb2.FRAME_KIND_CALL
MESSAGE: Final = link_pb2.FRAME_KIND_MESSAGE
END: Final = link_pb2.FRAME_KIND_END
CANCEL: Final = link_pb2.FRAME_KIND_CANCEL
CREDIT: Final = link_pb2.FRAME_KIND_CREDIT
PING: Final = link_pb2.FRAME_KIND_PING
PONG: Final = link_pb2.FRAME_KIND_PONG
GOAWAY: Final = link_pb2.FRAME_KIND_GOAWAY
PART: Final = link_pb2.FRAME_KIND_PART

MAJOR: Final = 1
MINOR: Final = 0
"""Version spoken here; the major one changes when old peers would misunderstand."""

FRAME_COST: Final = 64
"""What a frame counts beyond its message, in bytes; first.link.v1 tells it."""

PART_BYTES: Final = 64 * 1024
"""Largest message in one frame; larger ones share the link in parts. first.link.v1 tells it."""

_KEY: Final = re.compile(r"[a-z0-9_.-]{1,256}")
_TEXT: Final = re.compile(r"[ -~]*")


def hello_of(options: LinkOptions) -> link_pb2.Hello:
    """Return what a side with these options says first."""
    return link_pb2.Hello(
        major_version=MAJOR,
        minor_version=MINOR,
        max_message_bytes=options.max_message_bytes,
        max_call_count=options.max_call_count,
        max_metadata_bytes=options.max_metadata_bytes,
        initial_credit_bytes=options.initial_credit_bytes,
    )


def check_hello(frame: link_pb2.Frame) -> link_pb2.Hello:
    """Return what the other side says first.

    Raises:
        LinkError: It speaks another major version, or nonsense.
    """
    if frame.kind != HELLO:
        raise broken("the first frame is no hello")
    hello = frame.hello
    if hello.major_version != MAJOR:
        raise LinkError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"link version {hello.major_version}.{hello.minor_version} is not spoken here, "
            f"{MAJOR}.{MINOR} is",
        )
    sizes = (hello.max_message_bytes, hello.initial_credit_bytes)
    if min(sizes) <= 0 or hello.max_call_count < 0 or hello.max_metadata_bytes < 0:
        raise broken("the hello has a limit out of range")
    return hello


def check_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> int:
    """Return the size of metadata in bytes.

    Raises:
        ValueError: gRPC would not carry it.
    """
    size = 0
    for key, value in metadata:
        if not _KEY.fullmatch(key):
            raise ValueError(f"metadata key {key!r} is illegal")
        if key.endswith("-bin"):
            legal = isinstance(value, bytes)
        else:
            legal = isinstance(value, str) and _TEXT.fullmatch(value) is not None
        if not legal:
            raise ValueError(f"the value of metadata key {key!r} is illegal")
        size += len(key) + len(value)
    return size


def metadata_size(frame: link_pb2.Frame) -> int:
    """Return the size of a frame's metadata in bytes."""
    return sum(len(pair.key) + len(pair.value) for pair in frame.metadata)


def put_metadata(frame: link_pb2.Frame, metadata: Metadata) -> None:
    """Write metadata, checked before, into a frame."""
    for key, value in metadata:
        frame.metadata.add(key=key, value=value if isinstance(value, bytes) else value.encode())


def metadata_in(frame: link_pb2.Frame) -> Metadata:
    """Return the metadata of a frame.

    Raises:
        ValueError: gRPC would not carry it.
    """
    found: Metadata = tuple(
        (pair.key, pair.value if pair.key.endswith("-bin") else pair.value.decode("ascii"))
        for pair in frame.metadata
    )
    check_metadata(found)
    return found
