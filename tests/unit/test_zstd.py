"""Small frames through contexts that each thread keeps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from icechunk.format.zstd import SMALL, compress, decompress_small

CONTENT = b"metadata of a small commit " * 40


def streamed(content: bytes) -> bytes:
    """A frame that does not state its size."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj()
    return compressor.compress(content) + compressor.flush()


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("content", [b"x", CONTENT, bytes(SMALL), bytes(SMALL + 1)])
def test_a_frame_is_what_a_fresh_compressor_makes(content: bytes, level: int) -> None:
    frame = compress(content, level)
    assert frame == zstandard.ZstdCompressor(level=level, write_content_size=True).compress(content)
    assert decompress_small(frame) == (content if len(content) <= SMALL else None)


def test_the_bound_counts_where_a_frame_does_not_state_its_size() -> None:
    frame = streamed(CONTENT)
    assert decompress_small(frame) is None
    assert decompress_small(frame, len(CONTENT) - 1) is None
    assert decompress_small(frame, len(CONTENT)) == CONTENT
    assert decompress_small(frame, SMALL + 1) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"no frame at all",
        compress(CONTENT, 3)[:-1],
        compress(CONTENT, 3) + b"more",
        compress(CONTENT, 3) + compress(CONTENT, 3),
    ],
)
def test_anything_else_is_left_to_others_and_disturbs_nothing(frame: bytes) -> None:
    assert decompress_small(frame) is None
    assert decompress_small(compress(CONTENT, 3)) == CONTENT


def test_threads_do_not_share_contexts() -> None:
    contents = [bytes([number]) * 5000 + CONTENT for number in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda content: decompress_small(compress(content, 3)), contents)) == contents
