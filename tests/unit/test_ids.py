"""Ids: bytes and their text, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.format.ids import INITIAL_SNAPSHOT_ID, NODE_ID_SIZE, OBJECT_ID_SIZE, format_id, parse_id

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def spelled_out(raw: bytes) -> str:
    bits = "".join(f"{byte:08b}" for byte in raw)
    bits += "0" * (-len(bits) % 5)
    return "".join(ALPHABET[int(bits[at : at + 5], 2)] for at in range(0, len(bits), 5))


@given(st.binary(min_size=1, max_size=20))
def test_the_text_of_an_id_is_crockford_base32_and_reads_back(raw: bytes) -> None:
    text = format_id(raw)
    assert text == spelled_out(raw)
    assert parse_id(text, len(raw)) == parse_id(text.lower(), len(raw)) == raw


def test_known_ids() -> None:
    assert format_id(INITIAL_SNAPSHOT_ID) == "1CECHNKREP0F1RSTCMT0"
    assert len(format_id(bytes(NODE_ID_SIZE))) == 13


def test_characters_that_are_easily_mistaken_are_read_as_meant() -> None:
    assert parse_id("OoIiLl" + "0" * 14) == parse_id("001111" + "0" * 14)


def test_fill_bits_are_ignored() -> None:
    assert parse_id("0" * 19 + "1") == bytes(OBJECT_ID_SIZE)


@pytest.mark.parametrize("char", ["U", "_", "+", "-", " ", "é", "€", "１", "!", "\n"])
@pytest.mark.parametrize("place", [0, 7, 19])
def test_anything_else_is_refused_and_named(char: str, place: int) -> None:
    text = "0" * place + char + "0" * (19 - place)
    with pytest.raises(ValueError, match="is no character of an id") as failure:
        parse_id(text)
    assert repr(char) in str(failure.value)


def test_an_id_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 20 characters, got 19"):
        parse_id("0" * 19)
