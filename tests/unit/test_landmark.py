"""The note about where the body of a file begins: believed when it is whole, and only then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from icechunk.format.landmark import EVERYTHING, LANDMARK_SIZE, Landmark, read_landmark, write_landmark

landmarks = st.builds(
    Landmark,
    body=st.integers(4, 100).map(lambda number: 8 * number),
    dead=st.integers(0, 2**32 - 1),
    vtables=st.none() | st.integers(0, 2**31),
)


@given(landmarks)
def test_what_is_noted_is_read(landmark: Landmark) -> None:
    buf = bytearray(1000)
    write_landmark(buf, landmark)
    assert read_landmark(buf) == landmark
    assert read_landmark(memoryview(buf)) == landmark
    assert buf[:8] == buf[8 + LANDMARK_SIZE :][:8] == bytes(8)
    assert len(buf) == 1000


@given(landmarks, st.integers(0, 8 * LANDMARK_SIZE - 1))
def test_a_changed_note_is_none(landmark: Landmark, bit: int) -> None:
    buf = bytearray(1000)
    write_landmark(buf, landmark)
    buf[8 + bit // 8] ^= 1 << bit % 8
    assert read_landmark(buf) == EVERYTHING


def test_other_files_have_none() -> None:
    for raw in (b"", bytes(8 + LANDMARK_SIZE), bytes(100), b"\x1c\0\0\0Ichk" + bytes(range(40))):
        assert read_landmark(raw) == EVERYTHING


def test_a_body_outside_of_the_file_is_not_looked_for() -> None:
    for body in (1008, 2**32 - 8, 36):
        buf = bytearray(1000)
        write_landmark(buf, Landmark(body))
        assert read_landmark(buf) == EVERYTHING


def test_dead_bytes_beyond_counting_are_as_many_as_can_be_counted() -> None:
    buf = bytearray(1000)
    write_landmark(buf, Landmark(80, 2**40))
    assert read_landmark(buf).dead == 2**32 - 1
