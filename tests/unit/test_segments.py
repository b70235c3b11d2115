"""Segmented frames: ordinary to any decoder, readable and replaceable in part."""

from __future__ import annotations

import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.format.segments import GAP, RESET, Segmentation, SegmentedPayload, compress_segments, open_segments


def payload_of(pieces: list[bytes]) -> tuple[bytes, tuple[int, ...]]:
    """Pieces with gaps between them, and where they are cut."""
    out, cuts = bytearray(), []
    for number, piece in enumerate(pieces):
        if number:
            cuts.append(len(out))
            out += bytes(GAP)
        out += piece
    return bytes(out), tuple(cuts)


def whole(frame: bytes) -> bytes:
    """What a decoder makes of it that knows nothing of segments."""
    return zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(frame)


def opened(frame: bytes) -> SegmentedPayload:
    found = open_segments(memoryview(frame), 1 << 31)
    assert found is not None
    return found


def texture(seed: int, size: int) -> bytes:
    """Bytes with repetitions near and far, so that matches at repeated distances occur."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        if out and rng.random() < 0.6:
            start = rng.randrange(len(out))
            out += out[start : start + rng.randrange(3, 60)]
        else:
            out += rng.randbytes(rng.randrange(1, 20))
    return bytes(out[:size])


pieces = st.lists(
    st.one_of(
        st.binary(max_size=200),
        st.builds(texture, st.integers(0, 99), st.integers(0, 5000)),
        st.builds(bytes, st.integers(0, 300)),
    ),
    min_size=1,
    max_size=7,
)


def test_a_reset_decodes_to_the_gap() -> None:
    header = b"\x28\xb5\x2f\xfd\x00\x00"
    frame = header + RESET + b"\x01\x00\x00"
    assert zstandard.ZstdDecompressor().decompress(frame, max_output_size=1000) == bytes(GAP)


@settings(deadline=None)
@given(pieces, st.integers(1, 12))
def test_any_decoder_reads_the_whole(parts: list[bytes], level: int) -> None:
    payload, cuts = payload_of(parts)
    assert whole(compress_segments(payload, Segmentation(cuts), level)) == payload


@settings(deadline=None)
@given(pieces, st.data())
def test_each_segment_is_read_alone(parts: list[bytes], data: st.DataObject) -> None:
    payload, cuts = payload_of(parts)
    segmented = opened(compress_segments(payload, Segmentation(cuts), 3))
    assert (len(segmented), segmented.cuts) == (len(payload), cuts)
    if payload:
        start = data.draw(st.integers(0, len(payload) - 1))
        stop = data.draw(st.integers(start + 1, len(payload)))
        segmented.need(start, stop)
        assert bytes(segmented.buf[start:stop]) == payload[start:stop]
    segmented.need_all()
    assert bytes(segmented.buf) == payload


def test_only_what_is_needed_is_decompressed() -> None:
    parts = [texture(number, 4000) for number in range(5)]
    payload, cuts = payload_of(parts)
    segmented = opened(compress_segments(payload, Segmentation(cuts), 3))
    assert segmented.loaded == 0
    segmented.need(cuts[1] + GAP, cuts[1] + GAP + 1)
    assert segmented.loaded == 4000
    segmented.need(cuts[1] - 1, cuts[1] + GAP + 1)
    assert segmented.loaded == 8000


def test_segments_are_moved_into_another_frame_as_they_are() -> None:
    parts = [texture(number, 9000) for number in range(6)]
    payload, cuts = payload_of(parts)
    old = opened(compress_segments(payload, Segmentation(cuts), 3))
    newer, newer_cuts = payload_of([b"a new head", parts[4], texture(77, 12_345), parts[1], parts[1]])
    reuse = {1: old.blocks(4), 3: old.blocks(1), 4: old.blocks(1)}
    frame = compress_segments(newer, Segmentation(newer_cuts, reuse), 3)
    assert whole(frame) == newer
    segmented = opened(frame)
    assert bytes(segmented.blocks(1)) == bytes(old.blocks(4))
    segmented.need_all()
    assert bytes(segmented.buf) == newer


def test_incompressible_and_empty_segments() -> None:
    payload, cuts = payload_of([b"", random.Random(1).randbytes(300_000), b"", bytes(500_000), b""])
    frame = compress_segments(payload, Segmentation(cuts), 3)
    assert whole(frame) == payload
    segmented = opened(frame)
    segmented.need_all()
    assert bytes(segmented.buf) == payload


def test_a_cut_without_a_gap_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="bytes after the cut at 10 must be zero"):
        compress_segments(b"a" * 200, Segmentation((10,)), 3)


def test_a_frame_without_a_table_is_not_segmented() -> None:
    plain = zstandard.ZstdCompressor().compress(b"abc" * 100)
    assert open_segments(memoryview(plain), 1 << 31) is None
    assert open_segments(memoryview(b""), 1 << 31) is None


def test_a_table_that_contradicts_the_frame_is_ignored() -> None:
    payload, cuts = payload_of([texture(1, 3000), texture(2, 3000)])
    frame = compress_segments(payload, Segmentation(cuts), 3)
    assert open_segments(memoryview(frame), 1 << 31) is not None
    assert open_segments(memoryview(frame), len(payload) - 1) is None
    entries = len(frame) - 16 - 16
    for at in range(entries, len(frame)):
        damaged = bytearray(frame)
        damaged[at] ^= 0xFF
        found = open_segments(memoryview(bytes(damaged)), 1 << 31)
        if found is not None:
            with pytest.raises(zstandard.ZstdError):
                found.need_all()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**32))
def test_damage_is_noticed_or_harmless_but_never_fatal(seed: int) -> None:
    rng = random.Random(seed)
    payload, cuts = payload_of([texture(3, 500), texture(4, 900), b"x" * 50])
    damaged = bytearray(compress_segments(payload, Segmentation(cuts), 3))
    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
    found = open_segments(memoryview(bytes(damaged)), 1 << 20)
    if found is not None:
        try:
            found.need_all()
        except zstandard.ZstdError:
            pass
