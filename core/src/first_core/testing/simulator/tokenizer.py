"""A tokenizer without a vocabulary: text to small pieces to numbers, and back without loss.

A token is up to five ASCII letters with at most one space before them, or any other single
character. Its id is its UTF-8 bytes read as one big-endian integer, so any text has ids and
any ids have a text. Six bytes at most: ids stay below 2**48 and exact in every JSON reader.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_pieces = re.compile(r" ?[A-Za-z]{1,5}|[^A-Za-z]", re.ASCII).findall

MAX_TOKEN_ID: Final = 2**48 - 1


def pieces(text: str) -> list[str]:
    """Return the tokens of `text` as text; joined they are `text` again."""
    return _pieces(text)


@lru_cache(maxsize=512)
def count(text: str) -> int:
    """Return the number of tokens in `text`; remembers the last texts asked for."""
    return len(_pieces(text))


def encode(text: str) -> list[int]:
    """Return the token ids of `text`."""
    return [token_id(piece) for piece in _pieces(text)]


def token_id(piece: str) -> int:
    """Return the id of one token."""
    return int.from_bytes(piece.encode("utf-8", "surrogatepass"), "big")


def decode(ids: Iterable[int]) -> str:
    """Return the text of token ids; bytes that are no UTF-8 become U+FFFD.

    Raises:
        ValueError: An id is negative or above `MAX_TOKEN_ID`.
    """
    out = bytearray()
    for number in ids:
        if not 0 <= number <= MAX_TOKEN_ID:
            raise ValueError(f"Token id {number} is out of vocabulary")
        out += number.to_bytes(max(1, (number.bit_length() + 7) // 8), "big")
    return out.decode("utf-8", "replace")
