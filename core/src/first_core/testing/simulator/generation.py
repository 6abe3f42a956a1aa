"""Text that follows from the seed and the prompt alone.

One long river of tokens is drawn at start; an answer is a stretch of it that begins where
the prompt's checksum says. So an answer costs a slice, and any answer can be taken up again
at any character of it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from first_core.testing.simulator import tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from first_core.testing.simulator.settings import SimulatorSettings

WORDS: Final = tuple(
    word
    for line in (
        "the a of and to in that it is was for on are with as his they at be this from have or by",
        "one had not but what all were when we there can an your which their said if do will each",
        "about how up out them then she many some so these would other into has more her two like",
        "him see time could no make than first been its who now my made over did down only way",
        "find use may water long very after words just where most know",
    )
    for word in line.split()
)
"""Five letters at most, so that each is one token."""

SPECIALS: Final = ("é", "漢", "🙂", "ß", "字", "🌍")
"""Characters of two, three and four bytes, taken in turn: every `SPECIAL_EVERY`th token is one."""

SPECIAL_EVERY: Final = 7
RIVER_LENGTH: Final = 4099
"""Tokens in the river; prime, so that neighbouring choices do not fall together."""

_FOREIGN_GREETING: Final = re.compile(r"\(simulated[^)]*\)?")


@dataclass(slots=True)
class Answer:
    """One choice of an answer."""

    pieces: list[str]
    """Text token by token; fewer than `token_count` where a stop string took some."""
    token_count: int
    finish: str
    """`stop` or `length`."""
    stop_reason: str | None = None
    """The stop string that ended it."""

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)

    def piece_at(self, place: int) -> str | None:
        """Return what the stream sends at token `place`; None where it has ended before.

        An answer that stops by itself ends in an empty piece, one cut by the limit in its last.
        """
        length = len(self.pieces)
        if place < length:
            return self.pieces[place]
        return "" if place == length and (self.finish != "length" or not length) else None

    def ends_at(self, place: int) -> bool:
        """Tell whether the piece at `place` is the last and carries the finish reason."""
        last = len(self.pieces) - (self.finish == "length")
        return place >= max(0, last)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked of the generator besides the prompt."""

    limit: int
    """Longest answer in tokens, 1 or more."""
    seed: int | None = None
    partial: str | None = None
    """Beginning of an answer that is to be continued."""
    stop: Sequence[str] = ()
    keep_stop: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0


class Generator:
    """Answers prompts."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._natural = settings.natural_token_count
        self._seed = settings.seed
        self._river = _draw(settings.seed)
        self._greeting = tokenizer.pieces(greeting(settings)) if settings.greeting else []
        self._escaped = {piece: escape(piece) for piece in {*self._river, *self._greeting}}

    def answer(self, prompt: str, order: Order, *, index: int = 0) -> Answer:
        """Return choice `index` of the answer to `prompt`."""
        salt = crc32(b"%d/%d/%d" % (self._seed, order.seed or 0, index))
        start = crc32(prompt.encode("utf-8", "replace"), salt)
        if order.partial is None:
            natural = self._natural
            head = self._greeting
        else:
            natural, head, start = self._resume(order.partial, start)
        wanted = max(natural, order.min_tokens)
        if order.ignore_eos or wanted > order.limit:
            wanted, finish = order.limit, "length"
        else:
            finish = "stop"
        pieces = self._stretch(head, start, wanted)
        answer = Answer(pieces, len(pieces), finish)
        if order.stop:
            _apply_stop(answer, order)
        return answer

    def escaped(self, piece: str) -> bytes:
        """Return `piece` as it stands between the quotes of a JSON string."""
        return self._escaped.get(piece) or escape(piece)

    def _stretch(self, head: Sequence[str], start: int, length: int) -> list[str]:
        if length <= len(head):
            return list(head[:length])
        start %= RIVER_LENGTH
        end = start + length - len(head)
        river = self._river
        if end <= RIVER_LENGTH:
            return [*head, *river[start:end]]
        turns, rest = divmod(end, RIVER_LENGTH)
        return [*head, *river[start:], *(river * (turns - 1)), *river[:rest]]

    def _resume(self, partial: str, start: int) -> tuple[int, list[str], int]:
        """Return what is left of the natural length, the pieces due first, and the river's place.

        The answer may have been begun by a server with another name: its greeting counts as ours.
        """
        greeting = self._greeting
        if not "".join(greeting).startswith(partial):
            match = _FOREIGN_GREETING.match(partial) if greeting else None
            if match is not None:
                foreign = match.group()
                greeting = tokenizer.pieces(foreign if foreign.endswith(")") else foreign + ")")
        used = tokenizer.count(partial)
        uncut = self._stretch(greeting, start, max(self._natural, used + 1))
        if not "".join(uncut).startswith(partial):
            # Nothing of ours: go on with some text that follows from it.
            other = crc32(partial.encode("utf-8", "replace"), start)
            return max(1, self._natural - used), [], other
        position, offset = _locate(uncut, len(partial))
        head = [uncut[position][offset:], *greeting[position + 1 :]]
        place = start + max(0, position + 1 - len(greeting))
        return self._natural - position, head, place


def greeting(settings: SimulatorSettings) -> str:
    """Return what stands before each answer of a server."""
    by = f" by {settings.name}" if settings.name else ""
    on = f" on {settings.cluster}" if settings.cluster else ""
    return f"(simulated{by}{on})"


def escape(text: str) -> bytes:
    """Return `text` as it stands between the quotes of a JSON string."""
    return msgspec.json.encode(text)[1:-1]


def _draw(seed: int) -> list[str]:
    source = random.Random(seed)  # noqa: S311 - text, not secrets; must be the same everywhere
    river: list[str] = []
    for place in range(RIVER_LENGTH):
        if place % SPECIAL_EVERY == SPECIAL_EVERY - 1:
            river.append(SPECIALS[place // SPECIAL_EVERY % len(SPECIALS)])
        elif place % SPECIAL_EVERY == SPECIAL_EVERY - 2 and source.random() < 0.4:  # noqa: PLR2004 - a sentence now and then
            river.append(source.choice((".", ",", "\n")))
        else:
            river.append(" " + source.choice(WORDS))
    return river


def _locate(pieces: Sequence[str], length: int) -> tuple[int, int]:
    """Return the piece that holds the character after the first `length`, and the place in it."""
    for position, piece in enumerate(pieces):
        if length < len(piece):
            return position, length
        length -= len(piece)
    raise ValueError("the pieces end before that character")


def _apply_stop(answer: Answer, order: Order) -> None:
    text = answer.text
    found = [(text.index(word), word) for word in order.stop if word and word in text]
    if not found:
        return
    begin, word = min(found)
    end = begin + len(word)
    cut = end if order.keep_stop else begin
    length = tokens = 0
    kept: list[str] = []
    for piece in answer.pieces:
        if length < cut:
            kept.append(piece[: cut - length])
        length += len(piece)
        tokens += 1
        if length >= end:
            break
    answer.pieces, answer.token_count = kept, tokens
    answer.finish, answer.stop_reason = "stop", word
