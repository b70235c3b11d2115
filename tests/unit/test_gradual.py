"""Large frames that are decompressed as far as somebody looks."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from icechunk.errors import FormatError
from icechunk.flatbuf.builder import build
from icechunk.format import gradual
from icechunk.format.chunk_ref import Inline, Virtual
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.envelope import HEADER_SIZE, FileType, header_bytes, open_envelope
from icechunk.format.gradual import GradualPayload, open_gradual
from icechunk.format.manifest import Manifest, encode_manifest, revise_few
from icechunk.format.schemas import FILE_IDENTIFIER, MANIFEST

REPOS = Path(__file__).parent.parent / "golden" / "repos"
FILES = sorted(path for path in REPOS.glob("*/manifests/*") if path.is_file())
ID, NODE, OTHER = b"manifest id!", b"node-001", b"node-002"
LIMIT = 1 << 30


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradual, "_FROM", 1)
    monkeypatch.setattr(gradual, "AHEAD", 128)


def frame(content: bytes, *, stated: bool = True) -> memoryview:
    return memoryview(zstandard.ZstdCompressor(write_content_size=stated).compress(content))


def opened(content: bytes, **options: Any) -> GradualPayload:
    found = open_gradual(frame(content, **options), LIMIT)
    assert found is not None
    return found


CONTENT = random.Random(5).randbytes(600_000)


def table_of(rows: int) -> ChunkTable:
    coords = np.stack(np.unravel_index(np.arange(rows), (-(-rows // 10), 10)), 1).astype(np.uint32)
    number = np.arange(rows)
    names = [f"s3://some-bucket/of/many/files/{code * 7919:09}.nc" for code in range(rows)]
    return ChunkTable.from_columns(coords, names, number * 1000, 1000 + number, codes=number)


TABLE = table_of(5_000)


def by_a_general_writer(table: ChunkTable) -> bytes:
    """A file with every table, vector and string where a general flatbuffers writer puts it, in a frame without a size."""
    refs = [
        {"index": coords, "offset": ref.offset, "length": ref.length, "location": ref.location}
        for coords, ref in table.items()
        if isinstance(ref, Virtual)
    ]
    payload = build(
        MANIFEST,
        {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}, {"node_id": OTHER, "refs": []}]},
        FILE_IDENTIFIER,
    )
    return header_bytes(FileType.MANIFEST, 1) + bytes(frame(payload, stated=False))


def manifest(data: bytes) -> Manifest:
    return Manifest.decode(data, "manifests/X")


# -------------------------------------------------------------------- frames


@pytest.mark.parametrize("stated", [True, False])
def test_what_was_asked_for_is_there_and_the_rest_is_not(stated: bool) -> None:
    payload = opened(CONTENT, stated=stated)
    assert payload.filled == 0
    payload.need(1_000, 300_000)
    assert bytes(payload.buf[:300_000]) == CONTENT[:300_000]
    assert 300_000 <= payload.filled < 310_000
    assert not any(payload.buf[payload.filled :])
    payload.need(0, len(payload.buf))
    assert payload.is_complete and payload.filled == len(CONTENT)
    assert bytes(payload.buf[: len(CONTENT)]) == CONTENT


def test_threads_decompress_once(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = opened(CONTENT)
    begun: list[int] = []
    advance = payload._advance
    monkeypatch.setattr(payload, "_advance", lambda target: (begun.append(target), advance(target)))
    threads = [threading.Thread(target=payload.need, args=(0, 500_000)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) == 1
    assert bytes(payload.buf[:500_000]) == CONTENT[:500_000]


def test_another_process_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = opened(CONTENT)
    payload.need(0, 200_000)
    payload._lock.acquire()  # a thread that is not in the child
    monkeypatch.setattr(gradual.os, "getpid", lambda: -1)
    payload.need(0, 400_000)
    assert bytes(payload.buf[:400_000]) == CONTENT[:400_000]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no zstd frame at all",
        bytes(frame(CONTENT)[:-1]),
        bytes(frame(CONTENT)) * 2,
        bytes(frame(CONTENT)) + b"\x50\x2a\x4d\x18\0\0\0\0",
    ],
    ids=["empty", "garbage", "cut off", "two frames", "skippable frame"],
)
def test_everything_else_is_left_to_the_envelope(body: bytes) -> None:
    assert open_gradual(memoryview(body), LIMIT) is None


def test_content_beyond_the_limit_is_left_to_the_envelope() -> None:
    assert open_gradual(frame(CONTENT), len(CONTENT) - 1) is None
    assert open_gradual(frame(bytes(10_000_000), stated=False), 1_000_000) is None


# -------------------------------------------------------------------- manifests


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_manifests_of_the_fixtures_read_as_when_whole(path: Path) -> None:
    data = path.read_bytes()
    header, content = open_envelope(data, FileType.MANIFEST, "x")
    whole = Manifest.decode(data[: HEADER_SIZE - 1] + b"\0" + bytes(content), "x")
    assert whole.missing is None
    for node in whole.node_ids():
        expected = list(whole.table(node).items())
        random.Random(3).shuffle(expected)
        found = manifest(data)
        assert [found.find(node, coords) for coords, _ in expected] == [ref for _, ref in expected]
        assert manifest(data).find(node, expected[0][0]) == expected[0][1]
        assert sorted(manifest(data).table(node).items()) == sorted(expected)
    assert manifest(data).num_refs == whole.num_refs
    assert manifest(data).spec == header.spec


@pytest.mark.parametrize(
    "data",
    [by_a_general_writer(TABLE), encode_manifest(ID, {NODE: TABLE, OTHER: TABLE.take(slice(0, 9))}, spec=1)],
    ids=["general", "ours"],
)
def test_any_row_can_be_the_first(data: bytes) -> None:
    extents = TABLE.extents()
    for row in [0, 1, 2_500, 4_998, 4_999]:
        coords = tuple(TABLE.coords[row].tolist())
        assert manifest(data).find(NODE, coords) == TABLE.ref(row)
        assert manifest(data).find(NODE, coords, extents) == TABLE.ref(row)
        assert manifest(data).find(OTHER, (9_000, 1)) is None
    found = manifest(data)
    for row in range(0, 5_000, 7):
        assert found.find(NODE, tuple(TABLE.coords[row].tolist()), extents) == TABLE.ref(row)
    assert list(found.table(NODE).items()) == list(TABLE.items())
    assert found.missing is None


def test_a_lookup_in_a_file_of_ours_reads_what_is_in_front_of_it() -> None:
    found = manifest(encode_manifest(ID, {NODE: TABLE}, spec=1))
    assert found.find(NODE, (50, 0), TABLE.extents()) == TABLE.ref(500)
    assert isinstance(found.missing, GradualPayload)
    assert found.missing.filled < found.doc.size / 2


def test_what_is_decompressed_already_is_near() -> None:
    found = manifest(encode_manifest(ID, {NODE: TABLE}, spec=1))
    extents = TABLE.extents()
    assert found.is_far(NODE, (0, 0), extents)
    assert found.find(NODE, (50, 0), extents) == TABLE.ref(500)
    assert not found.is_far(NODE, (50, 0), extents) and not found.is_far(NODE, (7, 1), extents)
    assert found.is_far(NODE, (400, 0), extents) and found.is_far(NODE, (999, 9), extents)
    found.table(NODE)
    assert not found.is_far(NODE, (400, 0), extents)


def test_few_references_are_revised_on_top_of_all_that_was_there() -> None:
    small = table_of(300)
    data = encode_manifest(ID, {NODE: small}, spec=1)
    revised = revise_few(manifest(data), b"the new one!", NODE, {(3, 3): Inline(b"new")}, spec=1, level=3)
    assert revised is not None
    expected = dict(small.items()) | {(3, 3): Inline(b"new")}
    assert dict(manifest(revised.data).table(NODE).items()) == expected


@pytest.mark.parametrize("seed", range(30))
def test_damaged_files_end_in_a_format_error(seed: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(by_a_general_writer(TABLE) if seed % 2 else encode_manifest(ID, {NODE: TABLE}, spec=1))
    for _ in range(rng.choice([1, 4])):
        damaged[rng.randrange(HEADER_SIZE, len(damaged))] ^= 1 << rng.randrange(8)
    for first in [(0, 0), (250, 0), (499, 9)]:
        try:
            found = Manifest.decode(bytes(damaged), "x")
            for node in found.node_ids():
                found.find(node, first, TABLE.extents())
                list(found.table(node).items())
        except FormatError:
            pass
