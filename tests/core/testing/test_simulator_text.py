"""Tokens and text that the simulator makes up."""

from __future__ import annotations

import pytest

from first_core.testing.simulator import SimulatorSettings, tokenizer
from first_core.testing.simulator.generation import Generator, Order

TEXTS = ["", " ", "plain words", "Ünï漢字🙂\n\t  x", "a" * 99, "é" * 9, "\x00\x7f", "12,5 %"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_returns_the_text_it_was_given(text: str) -> None:
    """Encoding and decoding loses nothing."""
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_counts_what_it_encodes(text: str) -> None:
    """The count is the number of ids."""
    assert tokenizer.count(text) == len(tokenizer.encode(text))


def test_tokenizer_ids_stay_in_range() -> None:
    """No id is above the largest one told."""
    assert max(tokenizer.encode(" zzzzz🙂\U0010ffff")) <= tokenizer.MAX_TOKEN_ID


@pytest.mark.parametrize("number", [-1, 2**48])
def test_tokenizer_refuses_ids_out_of_range(number: int) -> None:
    """An id outside the vocabulary is an error, not a crash elsewhere."""
    with pytest.raises(ValueError, match="out of vocabulary"):
        tokenizer.decode([number])


def test_generator_text_follows_from_seed_and_prompt() -> None:
    """Two servers with one seed answer alike; another prompt or seed answers otherwise."""
    order = Order(limit=30)
    first = Generator(SimulatorSettings(seed=1)).answer("hi", order).text

    assert Generator(SimulatorSettings(seed=1)).answer("hi", order).text == first
    assert Generator(SimulatorSettings(seed=1)).answer("ho", order).text != first
    assert Generator(SimulatorSettings(seed=2)).answer("hi", order).text != first


def test_generator_pieces_are_tokens() -> None:
    """What the stream sends piece by piece is what the tokenizer counts."""
    answer = Generator(SimulatorSettings()).answer("hi", Order(limit=5000, ignore_eos=True))

    assert answer.token_count == 5000
    assert tokenizer.count(answer.text) == 5000


def test_generator_uses_characters_of_two_to_four_bytes() -> None:
    """Every answer of some length has characters that bytes can be cut in."""
    text = Generator(SimulatorSettings()).answer("hi", Order(limit=60)).text

    assert {len(character.encode()) for character in text} == {1, 2, 3, 4}


def test_generator_says_that_it_is_simulated() -> None:
    """The answer begins with who made it up, unless a setting turns that off."""
    told = Generator(SimulatorSettings(name="alpha", cluster="sophia"))
    silent = Generator(SimulatorSettings(greeting=False))

    assert told.answer("hi", Order(limit=60)).text.startswith("(simulated by alpha on sophia) ")
    assert "simulated" not in silent.answer("hi", Order(limit=60)).text


@pytest.mark.parametrize("greeting", [True, False])
def test_generator_continues_at_every_character(greeting: bool) -> None:  # noqa: FBT001 - pytest gives it
    """What was said and what follows are the uncut answer, wherever the cut is."""
    generator = Generator(SimulatorSettings(greeting=greeting))
    uncut = generator.answer("hi", Order(limit=500)).text

    for place in range(len(uncut) + 1):
        rest = generator.answer("hi", Order(limit=500, partial=uncut[:place]))
        assert uncut[:place] + rest.text == uncut
        assert rest.finish == "stop"


def test_generator_continues_what_another_server_began() -> None:
    """A server with another name goes on from behind the first one's greeting."""
    order = Order(limit=500)
    uncut = Generator(SimulatorSettings(name="alpha", cluster="x")).answer("hi", order).text
    other = Generator(SimulatorSettings(name="a-longer-name"))

    for place in range(uncut.index(")"), len(uncut) + 1):
        rest = other.answer("hi", Order(limit=500, partial=uncut[:place]))
        assert uncut[:place] + rest.text == uncut


def test_generator_continues_a_text_it_never_said() -> None:
    """A foreign beginning gets some continuation instead of an error."""
    rest = Generator(SimulatorSettings()).answer("hi", Order(limit=9, partial="Well, I think"))

    assert rest.token_count == 9


def test_generator_stops_before_a_stop_string() -> None:
    """The stop string is not part of the text, and its tokens are counted."""
    generator = Generator(SimulatorSettings())
    answer = generator.answer("hi", Order(limit=50, stop=["never there", "ated)"]))

    assert answer.text == "(simul"
    assert (answer.finish, answer.stop_reason, answer.token_count) == ("stop", "ated)", 4)


def test_generator_keeps_a_stop_string_if_asked() -> None:
    """`include_stop_str_in_output` leaves it in the text."""
    answer = Generator(SimulatorSettings()).answer(
        "hi", Order(limit=50, stop=["late"], keep_stop=True)
    )

    assert answer.text == "(simulate"


def test_generator_obeys_min_tokens() -> None:
    """An answer is at least as long as asked."""
    answer = Generator(SimulatorSettings()).answer("hi", Order(limit=500, min_tokens=80))

    assert (answer.token_count, answer.finish) == (80, "stop")
