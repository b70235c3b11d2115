"""Metadata values: what the reference writes, what other encoders write, and what nobody should."""

from __future__ import annotations

import math
import random
from collections import UserDict, deque
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.format.values import (
    decode_flexbuffer,
    decode_msgpack,
    decode_value,
    encode_flexbuffer,
    encode_msgpack,
    encode_value,
    to_json_domain,
)

MSGPACK = [
    (None, "c0"),
    (True, "c3"),
    (False, "c2"),
    (1, "01"),
    (-5, "fb"),
    (-33, "d0df"),
    (128, "cc80"),
    (-129, "d1ff7f"),
    (2**40, "cf0000010000000000"),
    (2**64 - 1, "cfffffffffffffffff"),
    (-(2**63), "d38000000000000000"),
    (1.5, "cb3ff8000000000000"),
    ("v", "a176"),
    ([1, "a", None], "9301a161c0"),
    ({"z": 1, "a": []}, "82a16190a17a01"),
]

FLEXBUFFERS = [
    (None, "000001"),
    (True, "016801"),
    (1, "010801"),
    (-5, "fb0401"),
    (2**40, "00000000000100000b08"),
    (1.5, "0000c03f0e04"),
    ("v", "017600021401"),
    ([1, "a", None], "01610003010400081400062801"),
    ({"z": 1, "a": []}, "6100007a0002060402010208012808042401"),
    ({"is_root": True}, "69735f726f6f740001090101010168022401"),
    ([True], "01010190" + "01"),
]

# by the Python package of flatbuffers, which types its vectors where it can and knows no f64
FOREIGN_FLEXBUFFERS = [
    ([1, 2, 3, 300], "04000100020003002c01050505050c2901"),
    ([1, 2], "0201020404042801"),
    ([1.5] * 5, "050000000000c03f0000c03f0000c03f0000c03f0000c03f0e0e0e0e0e192a01"),
    ([True, False], "0201006868042801"),
    (["a", "bb", ""], "01610002626200000003090704141414062801"),
    ([[1], [2, 3]], "01010402020304040208062828042801"),
    ({"a": {"b": [1, -5]}, "": []}, "610062000201fb0404010801010109280000020314020102060b2824042401"),
    ({}, "00000100002401"),
    ([], "00002801"),
    ("", "0000011401"),
    (
        [-5, 7, 1.5, None, 1.5, "kk"],
        "fb0700000000c03f6b6b000006000000100000001300000014000000000000000000c03f1c000000181c22020e101e2a01",
    ),
]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner, max_size=6)
    ),
    max_leaves=30,
)


@pytest.mark.parametrize(("value", "raw"), MSGPACK)
def test_msgpack_as_the_reference_writes_it(value: Any, raw: str) -> None:
    assert encode_msgpack(value).hex() == raw
    assert decode_msgpack(bytes.fromhex(raw)) == value


@pytest.mark.parametrize(("value", "raw"), FLEXBUFFERS)
def test_flexbuffers_as_the_reference_writes_them(value: Any, raw: str) -> None:
    assert encode_flexbuffer(value).hex() == raw
    assert decode_flexbuffer(bytes.fromhex(raw)) == value


@pytest.mark.parametrize(("value", "raw"), FOREIGN_FLEXBUFFERS)
def test_flexbuffers_of_another_encoder(value: Any, raw: str) -> None:
    assert decode_flexbuffer(bytes.fromhex(raw)) == value


@given(json_values)
def test_values_round_trip_in_both_encodings(value: Any) -> None:
    for spec in (1, 2):
        found = decode_value(encode_value(value, spec), spec, "file")
        assert found == value
        assert _types(found) == _types(value)


def _types(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _types(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_types(item) for item in value]
    return type(value)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 65535, 65536])
def test_lengths_at_the_limits_of_their_forms(length: int) -> None:
    for value in ("x" * length, [None] * length, [7] * length, {str(number): number for number in range(length)}):
        for spec in (1, 2):
            assert decode_value(encode_value(value, spec), spec, "file") == value


def test_wide_vectors_hold_narrow_numbers() -> None:
    value = [0, -1, 1.5, None, True, 2**50, "x", -(2**50), 0.1]
    assert decode_flexbuffer(encode_flexbuffer(value)) == value


def test_msgpack_reads_every_form() -> None:
    assert decode_msgpack(bytes.fromhex("ca3fc00000")) == 1.5
    assert decode_msgpack(bytes.fromhex("c4020102")) == [1, 2]
    assert decode_msgpack(bytes.fromhex("d90161")) == "a"
    assert decode_msgpack(bytes.fromhex("dd0000000101")) == [1]
    assert decode_msgpack(bytes.fromhex("df00000001a16101")) == {"a": 1}
    assert decode_msgpack(bytes.fromhex("cb7ff8000000000000")) is None


def test_flexbuffers_read_half_floats_and_nan() -> None:
    assert decode_flexbuffer(bytes.fromhex("003e0d02")) == 1.5
    assert decode_flexbuffer(bytes.fromhex("000000000000f87f0f08")) is None


@pytest.mark.parametrize(
    "raw",
    ["", "c1", "d40000", "92", "dd7fffffff", "a5", "81010a", "a1ff", "d9", "cf00", "df00ffffff"],
)
def test_broken_msgpack_is_a_format_error(raw: str) -> None:
    with pytest.raises(FormatError, match="somewhere"):
        decode_msgpack(bytes.fromhex(raw), "somewhere")


@pytest.mark.parametrize(
    "raw",
    ["", "01", "0001", "000003", "050801" + "ff", "0a1401", "03616263036401", "ff00022801", "01ff0001023c01", "00ff01"],
)
def test_broken_flexbuffers_are_format_errors(raw: str) -> None:
    with pytest.raises(FormatError, match="somewhere"):
        decode_flexbuffer(bytes.fromhex(raw), "somewhere")


def test_vectors_that_share_vectors_do_not_explode() -> None:
    raw = bytearray(b"\x01\x00\x08")  # the vector [0]; each of those that follow refers to the one before it 100 times
    before = 1
    for _ in range(20):
        raw.append(100)
        start = len(raw)
        raw += bytes(start + place - before & 0xFF for place in range(100))
        raw += bytes([10 << 2]) * 100
        before = start
    raw += bytes((len(raw) - before, 10 << 2, 1))
    with pytest.raises(FormatError):
        decode_flexbuffer(raw)


@pytest.mark.parametrize("raw", [b"\x91" * 100_000 + b"\xc0", b"\x81\xa1a" * 100_000 + b"\xc0"])
def test_bottomless_msgpack_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="nested deeper"):
        decode_msgpack(raw)


def test_bottomless_flexbuffers_are_refused() -> None:
    raw = bytearray(b"\x01\x00\x08")
    for _ in range(1000):
        raw += b"\x01\x03\x28"  # a vector whose one element is the vector before it
    raw += bytes((2, 10 << 2, 1))
    with pytest.raises(FormatError, match="nested deeper"):
        decode_flexbuffer(raw)


def test_damaged_values_never_raise_anything_else() -> None:
    rng = random.Random(7)
    value = {"a": [1, 2, 300, "x" * 300, None, {"b": 1.5, "c": [0.1, -7]}], "é": {"k": ["a", "b"]}, "t": [True] * 9}
    for spec in (1, 2):
        whole = encode_value(value, spec)
        damaged = [whole[:length] for length in range(len(whole))]
        for _ in range(1500):
            copy = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                copy[rng.randrange(len(copy))] = rng.randrange(256)
            damaged.append(bytes(copy))
        for raw in damaged:
            try:
                decode_value(raw, spec, "file")
            except FormatError:
                pass


def test_what_users_give_becomes_json() -> None:
    assert to_json_domain({"a": (1, 2.5), "b": b"ab", "c": {"d": None}}) == {
        "a": [1, 2.5],
        "b": [97, 98],
        "c": {"d": None},
    }
    assert to_json_domain([math.nan, math.inf, -math.inf]) == [None, None, None]
    assert to_json_domain(2**64) == 2.0**64
    assert to_json_domain(-(2**63) - 1) == -(2.0**63)
    assert to_json_domain(deque([range(2)])) == [[0, 1]]
    assert to_json_domain(UserDict(a=1)) == {"a": 1}
    assert to_json_domain(Decimal("1.5")) == 1.5
    assert to_json_domain(bytearray(b"a")) == to_json_domain(memoryview(b"a")) == [97]


def test_numpy_values_become_plain_ones() -> None:
    given_values = {"i": np.int64(3), "f": np.float32(2.5), "b": np.bool_(True), "s": np.str_("q"), "a": np.eye(2)}
    found = to_json_domain(given_values)
    assert found == {"i": 3, "f": 2.5, "b": True, "s": "q", "a": [[1.0, 0.0], [0.0, 1.0]]}
    assert _types(found) == {"i": int, "f": float, "b": bool, "s": str, "a": [[float, float], [float, float]]}


@pytest.mark.parametrize(
    "value", [{1: 2}, {None: 1}, {"a": {1: 2}}, {1, 2}, object(), 1j, "\ud800", {"\ud800": 1}, 10**400, iter([1])]
)
def test_what_has_no_form_in_json_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        to_json_domain(value)


def test_values_that_contain_themselves_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested deeper"):
        to_json_domain(endless)


def test_what_conversion_lets_pass_can_be_written() -> None:
    value: Any = "leaf"
    for _ in range(200):
        value = [value]
    for spec in (1, 2):
        assert decode_value(encode_value(to_json_domain(value), spec), spec, "file") == value
    with pytest.raises(ValueError, match="nested deeper"):
        to_json_domain([value])


def test_keys_with_a_zero_character_are_refused_where_they_cannot_be_stored() -> None:
    with pytest.raises(ValueError, match="zero character"):
        encode_flexbuffer({"a\0b": 1})
    assert decode_msgpack(encode_msgpack({"a\0b": 1})) == {"a\0b": 1}
