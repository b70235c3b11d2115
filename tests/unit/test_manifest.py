"""Manifests: files of the reference, every way of reading them, our own files, and files revised in part."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.flatbuf.builder import build
from icechunk.format import manifest, manifest_encoding, manifest_layout, manifest_revision
from icechunk.format.chunk_ref import ChunkRef, Inline, Native, Virtual
from icechunk.format.chunk_table import INLINE, NATIVE, ChunkTable
from icechunk.format.envelope import FileType, header_bytes, open_envelope, read_header, seal
from icechunk.format.ids import format_id, parse_id
from icechunk.format.location_compression import decompress_locations
from icechunk.format.manifest import (
    LocationCompression,
    Manifest,
    encode_few,
    encode_manifest,
    revise_few,
    revise_manifest,
)
from icechunk.format.schemas import FILE_IDENTIFIER, MANIFEST

REPOS = Path(__file__).parent.parent / "golden" / "repos"
MANIFEST_FILES = sorted(path for path in REPOS.glob("*/manifests/*") if path.is_file())
ID, NEW_ID, NODE, OTHER = b"manifest id!", b"the new one!", b"node-001", b"node-002"
Refs = dict[tuple[int, ...], ChunkRef]

# Three references each, as package 1.1.21 and package 2.3.0 wrote them.
V1 = bytes.fromhex(
    "100000004963686b080014000400100008000000f262d8f4681546c347e32cd104000000010000000c0000000800100004000c0008000000"
    "d44ea141504939de0400000003000000a400000070000000180000000000120024000400000010001800000008000c001200000038000000"
    "2400000018000000050000000000000009000000000000000000000003000000226522000a00000073333a2f2f626b742f6b000001000000"
    "0200000000000e002000040000000000140008000e0000001c0000005c30570d4efb9feaa4b38b4d06000000000000000000000001000000"
    "0100000008000c000400080008000000100000000400000001000000070000000100000000000000"
)
V2 = bytes.fromhex(
    "140000004963686b0c00180008001400000007000c00000000000000448b0c8bef73c62cb515ed2804000000010000000c00000008001000"
    "04000c000800000079a08af19c9076410400000003000000a400000070000000180000000000120024000400000010001800000008000c00"
    "12000000380000002400000018000000050000000000000009000000000000000000000003000000226522000a00000073333a2f2f626b74"
    "2f6b0000010000000200000000000e002000040000000000140008000e0000001c00000030d870711b920aabf16ccd670600000000000000"
    "00000000010000000100000008000c000400080008000000100000000400000001000000070000000100000000000000"
)
RAW_DICTIONARY_FRAME = bytes.fromhex("28b52ffd202575000040303030312e62696e0100e05640")


def plain_file(payload: bytes, spec: int = 1) -> bytes:
    """A manifest file that is not compressed, so that damage hits the flatbuffer."""
    return header_bytes(FileType.MANIFEST, spec)[:38] + b"\0" + payload


def opened(data: bytes) -> Manifest:
    return Manifest.decode(data, "manifests/X")


def revise(*args: Any, **options: Any) -> bytes | None:
    """`revise_manifest`, which must also count right."""
    found = revise_manifest(*args, **options)
    if found is None:
        return None
    assert opened(found.data).num_refs == found.num_refs
    return found.data


def content(table: ChunkTable) -> Refs:
    found = dict(table.items())
    assert len(found) == len(table)
    assert list(found) == sorted(found)
    return found


def check(data: bytes, expected: Mapping[bytes, Refs]) -> None:
    """Read a manifest in every way there is."""
    lazy, eager = opened(data), opened(data)
    assert lazy.node_ids() == sorted(expected)
    assert lazy.num_refs == sum(map(len, expected.values()))
    for node, refs in expected.items():
        assert lazy.count(node) == len(refs)
        assert content(eager.table(node)) == refs
        extents = eager.table(node).extents()
        for coords, ref in refs.items():
            assert lazy.find(node, coords) == ref
            assert lazy.find(node, coords, extents) == ref
            assert eager.find(node, coords) == ref
            elsewhere = tuple(coord + 1 for coord in coords)
            assert lazy.find(node, elsewhere) == refs.get(elsewhere)
            assert lazy.find(node, elsewhere, extents) == refs.get(elsewhere)


# -------------------------------------------------------------------- files of the reference


@pytest.mark.parametrize(
    "payload, node, chunk",
    [(V1, "TH7A2GAG94WXW", "BGR5E3AEZEFYN95KHD6G"), (V2, "F6G8NWCWJ1V42", "63C70W8VJ85AQWBCSNKG")],
)
def test_the_reference_s_own_bytes(payload: bytes, node: str, chunk: str) -> None:
    refs: Refs = {
        (0,): Inline(b"\x07"),
        (1,): Native(parse_id(chunk), 6),
        (2,): Virtual("s3://bkt/k", 5, 9, '"e"'),
    }
    check(seal(payload, FileType.MANIFEST, spec=1, level=3), {parse_id(node, 8): refs})


@pytest.mark.parametrize("path", MANIFEST_FILES, ids=lambda path: f"{path.parts[-3]}/{path.name}")
def test_manifests_of_the_fixtures(path: Path) -> None:
    data = path.read_bytes()
    found = opened(data)
    assert format_id(found.id) == path.name
    tables = {node: found.table(node) for node in found.node_ids()}
    expected = {node: content(table) for node, table in tables.items()}
    check(data, expected)
    check(encode_manifest(found.id, tables, spec=found.spec), expected)


def test_compressed_locations_of_the_reference() -> None:
    path = next((REPOS / "virtual-compressed-v2" / "manifests").iterdir())
    found = opened(path.read_bytes())
    (node,) = found.node_ids()
    table = found.table(node)
    assert table.locations == [f"s3://bucket/some_long_prefix_{row:04}.bin" for row in range(1500)]
    assert (table.location == np.arange(1500)).all()
    assert found.dictionary is not None and len(found.dictionary) == 2048
    assert opened(path.read_bytes()).find(node, (1499,)) == Virtual("s3://bucket/some_long_prefix_1499.bin", 0, 16)


def test_a_dictionary_may_be_any_bytes() -> None:
    dictionary = b"s3://bucket/some_long_prefix_"
    frame = RAW_DICTIONARY_FRAME
    assert decompress_locations([frame], zstandard.ZstdCompressionDict(dictionary)) == [
        "s3://bucket/some_long_prefix_0001.bin"
    ]
    refs = [{"index": [row], "compressed_location": frame, "length": row} for row in range(40)]
    values = {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}], "location_dictionary": dictionary}
    expected: Refs = {(row,): Virtual("s3://bucket/some_long_prefix_0001.bin", 0, row) for row in range(40)}
    check(plain_file(build(MANIFEST, values, FILE_IDENTIFIER), 2), {NODE: expected})


# -------------------------------------------------------------------- reading any layout

inline = st.builds(Inline, st.binary(max_size=9))
native = st.builds(Native, st.binary(min_size=12, max_size=12), st.integers(0, 2**64 - 1), st.sampled_from([0, 0, 5]))
virtual = st.builds(
    Virtual,
    st.sampled_from(["s3://b/a", "s3://b/é", "file:///x", "s3://b/long/" + "x" * 50]),
    st.integers(0, 2**63),
    st.integers(0, 2**40),
    st.sampled_from([None, None, '"e1"', "e2"]),
    st.sampled_from([0, 0, 7, 2**32 - 1]),
)
coordinate = st.one_of(st.integers(0, 4), st.sampled_from([2**32 - 2, 70_000]))


def refs_of(ndim: int) -> st.SearchStrategy[Refs]:
    return st.dictionaries(st.tuples(*[coordinate] * ndim), st.one_of(inline, native, virtual), max_size=25)


arrays = st.dictionaries(st.binary(min_size=8, max_size=8), st.integers(0, 3).flatmap(refs_of), max_size=3)


def fields(coords: tuple[int, ...], ref: ChunkRef) -> dict[str, Any]:
    if isinstance(ref, Inline):
        return {"index": coords, "inline": ref.data}
    if isinstance(ref, Native):
        return {"index": coords, "offset": ref.offset, "length": ref.length, "chunk_id": ref.id}
    return {
        "index": coords,
        "offset": ref.offset,
        "length": ref.length,
        "location": ref.location,
        "checksum_etag": ref.etag,
        "checksum_last_modified": ref.last_modified,
    }


def built(arrays: Mapping[bytes, Refs]) -> bytes:
    """The payload as a general flatbuffers writer lays it out."""
    values = {
        "id": ID,
        "arrays": [
            {"node_id": node, "refs": [fields(coords, ref) for coords, ref in sorted(refs.items())]}
            for node, refs in sorted(arrays.items())
        ],
    }
    return build(MANIFEST, values, FILE_IDENTIFIER)


@settings(deadline=None, max_examples=60)
@given(arrays)
def test_manifests_of_a_general_writer(arrays: dict[bytes, Refs]) -> None:
    check(plain_file(built(arrays)), arrays)


@pytest.mark.parametrize("repeat", [1, 7, 2000])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_locations_repeated_in_each_reference(repeat: int, compressed: bool) -> None:
    """As the reference writes them: each reference has a string of its own, of this length or that."""
    names = [f"s3://b/{'x' * (row // repeat % 3)}{row // repeat // 2}" for row in range(5000)]
    refs = [fields((row,), Virtual(name, row, 1)) for row, name in enumerate(names)]
    values: dict[str, Any] = {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}]}
    if compressed:
        values["location_dictionary"] = b"s3://b/xxx"
        frames = LocationCompression().compress(names, values["location_dictionary"])
        for ref, frame in zip(refs, frames, strict=True):
            ref |= {"location": None, "compressed_location": frame}
    table = opened(plain_file(build(MANIFEST, values, FILE_IDENTIFIER), 2)).table(NODE)
    assert table.location_text is not None
    part = table.take(np.array([1, 4999]))
    assert [part.ref(row) for row in range(2)] == [Virtual(names[1], 1, 1), Virtual(names[4999], 4999, 1)]
    assert table.locations == list(dict.fromkeys(names))
    assert [table.locations[code] for code in table.location_text.codes] == names
    assert part.locations is not None and set(part.locations) <= {names[1], names[4999]}


def test_lookups_go_over_to_the_table_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_MIN_PROBES", 20)
    refs: Refs = {(row,): Native(bytes(12), row) for row in range(0, 200, 2)}
    found = opened(plain_file(built({NODE: refs})))
    before = found.nbytes
    assert [found.find(NODE, (row,)) for row in range(200)] == [refs.get((row,)) for row in range(200)]
    assert found.nbytes > before


def test_arrays_that_are_not_there() -> None:
    found = opened(plain_file(built({OTHER: {(0,): Inline(b"x")}})))
    assert found.find(NODE, (0,)) is None
    assert found.count(NODE) == len(found.table(NODE)) == 0
    assert found.find(OTHER, (0, 0)) is None
    assert found.find(OTHER, (0,), ((5, 9),)) is None


def test_unsorted_references_are_sorted_in_the_table() -> None:
    refs = [fields((row,), Inline(bytes([row]))) for row in (5, 3, 9, 3)]
    payload = build(MANIFEST, {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}]}, FILE_IDENTIFIER)
    assert content(opened(plain_file(payload)).table(NODE)) == {(row,): Inline(bytes([row])) for row in (3, 5, 9)}


# -------------------------------------------------------------------- our own files


@pytest.mark.parametrize("few", [64, -1], ids=["one by one", "by columns"])
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=arrays, spec=st.sampled_from([1, 2]), segmented=st.booleans())
def test_what_is_encoded_reads_back(
    monkeypatch: pytest.MonkeyPatch, few: int, arrays: dict[bytes, Refs], spec: int, segmented: bool
) -> None:
    monkeypatch.setattr(manifest_encoding, "FEW", few)
    tables = {node: ChunkTable.from_refs(refs, len(next(iter(refs), (0,)))) for node, refs in arrays.items()}
    data = encode_manifest(ID, tables, spec=spec, segmented=segmented)
    assert read_header(data, "x").spec == opened(data).spec == spec
    assert opened(data).id == ID
    check(data, arrays)


@pytest.mark.parametrize("few", [64, -1], ids=["one by one", "by columns"])
def test_the_spec_decides_what_is_said_of_compression(monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(manifest_encoding, "FEW", few)
    table = ChunkTable.from_refs({(0,): Inline(b"x")}, 1)
    for spec, said in ((1, False), (2, True)):
        doc = opened(encode_manifest(ID, {NODE: table}, spec=spec)).doc
        root = doc.root(MANIFEST)
        assert root.has("compression_algorithm") is said
        assert root["compression_algorithm"] == (0 if said else 1)
        assert bytes(doc.buf[4:8]) == b"Ichk"


def grid(side: int) -> np.ndarray[Any, Any]:
    return np.stack(np.unravel_index(np.arange(side**3), (side,) * 3), 1).astype(np.uint32)


def native_table(coords: Any, seed: int = 0) -> ChunkTable:
    ids = np.frombuffer(random.Random(seed).randbytes(12 * len(coords)), np.uint8)
    return ChunkTable.from_native(coords, ids, np.arange(len(coords)) + 100)


def packed_table(coords: Any, seed: int = 0) -> ChunkTable:
    """Native chunks that lie one behind the other, some two hundred in an object."""
    coords = np.asarray(coords, np.uint32)
    coords, number = coords[np.lexsort(coords.T[::-1])], np.arange(len(coords))
    objects = np.frombuffer(random.Random(seed).randbytes(12 * (len(coords) // 200 + 1)), np.uint8).reshape(-1, 12)
    lengths, offsets = (column.astype(np.uint64) for column in (number % 7000 + 600, number % 200 * 7600 + 16))
    return ChunkTable(
        coords, np.full(len(coords), NATIVE, np.uint8), lengths, offsets, chunk_ids=objects[number // 200]
    )


def virtual_table(coords: Any, files: int, consecutive: bool = True, **options: Any) -> ChunkTable:
    number = np.arange(len(coords))
    codes = number * files // len(coords) if consecutive else number % files
    names = [f"s3://some-bucket/of/many/files/{code * 7919:09}.nc" for code in range(files)]
    return ChunkTable.from_columns(coords, names, number * 1000, 1000 + number % 50, codes=codes, **options)


def mixed_table(coords: Any) -> ChunkTable:
    """Rows of every kind, taking turns."""
    table = native_table(coords).overlay(virtual_table(coords[::3], 20, etags='"e"'))
    table = table.overlay(virtual_table(coords[1::5], 30, False, last_modified=5))
    blobs: Refs = {
        tuple(row): Inline(bytes([index % 251]) * (index % 40)) for index, row in enumerate(coords[2::7].tolist())
    }
    return table.overlay(ChunkTable.from_refs(blobs, 3))


COORDS = grid(18)
TABLES = {
    "native": native_table(COORDS),
    "packed": packed_table(COORDS),
    "packed, alone, and mixed": mixed_table(COORDS).overlay(packed_table(COORDS[::4])),
    "virtual, neighbours alike": virtual_table(COORDS, 100),
    "virtual, neighbours differ": virtual_table(COORDS, 100, False),
    "virtual, all different": virtual_table(COORDS, len(COORDS)),
    "mixed": mixed_table(COORDS),
}


def assert_equal(found: ChunkTable, expected: ChunkTable) -> None:
    """By column: large tables are too slow to compare one by one."""
    for name in ("coords", "kind", "offset", "length", "chunk_ids", "last_modified"):
        column, other = getattr(found, name), getattr(expected, name)
        assert (column is None) == (other is None), name
        assert column is None or (column == other).all(), name
    for text, other_text in ((found.location_text, expected.location_text), (found.etag_text, expected.etag_text)):
        assert (text is None) == (other_text is None)
        if text is not None and other_text is not None:
            strings, others = ([*each.distinct, None] for each in (text, other_text))
            assert [strings[code] for code in text.codes] == [others[code] for code in other_text.codes]
    for row in [*range(0, len(found), 97), len(found) - 1, *np.flatnonzero(found.kind == INLINE).tolist()]:
        assert found.ref(row) == expected.ref(row)


@pytest.mark.parametrize("name", TABLES)
def test_rows_may_be_laid_out_a_few_blocks_at_a_time(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    table = TABLES[name]
    whole = encode_manifest(ID, {NODE: table, OTHER: table.take(slice(0, 999))}, spec=1)
    for rows in (1, 512, 1100):
        monkeypatch.setattr(manifest_encoding, "_ROWS_AT_ONCE", rows)
        assert encode_manifest(ID, {NODE: table, OTHER: table.take(slice(0, 999))}, spec=1) == whole


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("name", TABLES)
def test_large_tables(monkeypatch: pytest.MonkeyPatch, name: str, segmented: bool) -> None:
    monkeypatch.setattr(manifest_encoding, "SEGMENT_SIZE", 30_000)
    table = TABLES[name]
    data = encode_manifest(ID, {NODE: table, OTHER: table.take(slice(0, 100))}, spec=1, segmented=segmented)
    found = opened(data)
    assert (found.segments is not None) is segmented
    extents = table.extents()
    for row in range(0, len(table), 371):
        coords = tuple(table.coords[row].tolist())
        assert found.find(NODE, coords, extents) == opened(data).find(NODE, coords) == table.ref(row)
    assert_equal(found.table(NODE), table)
    assert_equal(found.table(OTHER), table.take(slice(0, 100)))
    if segmented:
        assert found.segments is not None
        assert bytes(open_envelope(data, FileType.MANIFEST, "x")[1]) == bytes(found.segments.buf)


def test_one_lookup_in_a_segmented_file_reads_little_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_encoding, "SEGMENT_SIZE", 20_000)
    table = TABLES["native"]
    found = opened(encode_manifest(ID, {NODE: table}, spec=1, segmented=True))
    assert found.find(NODE, (9, 9, 9), table.extents()) == table.find((9, 9, 9))
    assert found.nbytes < 4 * len(table) + 60_000 < found.doc.size


def test_strings_of_neighbours_are_written_once() -> None:
    alike = opened(encode_manifest(ID, {NODE: TABLES["virtual, neighbours alike"]}, spec=1))
    differ = opened(encode_manifest(ID, {NODE: TABLES["virtual, neighbours differ"]}, spec=1))
    for found in (alike, differ):
        assert bytes(found.doc.buf).count(b"s3://some-bucket") < 150


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
def test_locations_are_compressed_where_asked_for(segmented: bool) -> None:
    table = TABLES["virtual, neighbours alike"].overlay(native_table(COORDS[::9]))
    how = LocationCompression()
    data = encode_manifest(ID, {NODE: table}, spec=2, location_compression=how, segmented=segmented)
    found = opened(data)
    assert found.dictionary is not None
    coords = (5, 0, 1)
    assert opened(data).find(NODE, coords) == table.find(coords)
    assert_equal(found.table(NODE), table)
    assert b"s3://some-bucket" not in bytes(found.doc.buf).replace(found.dictionary, b"")
    frame = bytes(how.compress(["s3://some-bucket/of/many/files/000000000.nc"], found.dictionary)[0])
    parameters = zstandard.get_frame_parameters(frame)
    assert parameters.dict_id == zstandard.ZstdCompressionDict(found.dictionary).dict_id()
    assert (parameters.content_size, parameters.has_checksum) == (43, False)


@pytest.mark.parametrize(
    "table, how, spec",
    [
        (TABLES["virtual, neighbours alike"], LocationCompression(), 1),
        (TABLES["virtual, neighbours alike"], LocationCompression(min_num_chunks=10_000), 2),
        (TABLES["native"], LocationCompression(), 2),
        (virtual_table(COORDS[:999], 100).overlay(native_table(COORDS[999:3000])), LocationCompression(), 2),
        (ChunkTable.from_columns(COORDS, ["s3://b"] * len(COORDS), 0, 1), LocationCompression(), 2),
        (ChunkTable.from_columns(COORDS, ["s3://b/" + "x" * 2000] * len(COORDS), 0, 1), LocationCompression(), 2),
        (TABLES["virtual, neighbours alike"], LocationCompression(dictionary_max_size_bytes=1), 2),
        (TABLES["virtual, neighbours alike"], LocationCompression(dictionary_max_training_samples=0), 2),
    ],
    ids=["spec 1", "few", "none virtual", "few virtual", "short", "too long to read", "tiny dictionary", "no samples"],
)
def test_locations_stay_plain(table: ChunkTable, how: LocationCompression, spec: int) -> None:
    found = opened(encode_manifest(ID, {NODE: table}, spec=spec, location_compression=how))
    assert found.dictionary is None
    assert_equal(found.table(NODE), table)


# -------------------------------------------------------------------- revising


def some_changes(rng: random.Random, base: ChunkTable, kinds: str) -> tuple[ChunkTable, Any]:
    """References of some kinds, over old ones, between and behind them; and coordinates to delete."""
    spread = rng.choice([1, 20, 400])
    over = base.coords[sorted(rng.sample(range(len(base)), spread))]
    behind = np.array([[base.extents()[0][1] + rng.randrange(2), row, 3] for row in range(rng.choice([0, 1, 30]))])
    coords = np.concatenate((over, behind.astype(np.uint32).reshape(-1, 3))) if "+" in kinds else over
    newer = ChunkTable.empty(3)
    for number, kind in enumerate(kinds.replace("+", "").replace("-", "")):
        part = coords[number :: len(kinds)]
        if kind == "n":
            newer = newer.overlay(native_table(part, rng.randrange(99)))
        elif kind == "p":
            newer = newer.overlay(packed_table(part, rng.randrange(99)))
        elif kind == "v":
            newer = newer.overlay(virtual_table(part, 3, etags=rng.choice([None, "x"])) if len(part) else newer)
        else:
            newer = newer.overlay(ChunkTable.from_refs({tuple(row): Inline(b"abc") for row in part.tolist()}, 3))
    gone = base.coords[sorted(rng.sample(range(len(base)), rng.choice([1, 300])))] if "-" in kinds else None
    return newer, gone


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("kinds", ["n", "n+", "p", "p+", "v", "i+", "npvi+-", "-"])
@pytest.mark.parametrize("name", ["native", "packed", "virtual, neighbours differ", "mixed"])
def test_revised_manifests_are_what_an_overlay_is(
    monkeypatch: pytest.MonkeyPatch, name: str, kinds: str, segmented: bool
) -> None:
    monkeypatch.setattr(manifest_encoding, "SEGMENT_SIZE", 30_000)
    monkeypatch.setattr(manifest_revision, "SEGMENT_SIZE", 30_000)
    rng = random.Random(f"{name} {kinds} {segmented}")
    table = TABLES[name]
    spec = rng.choice([1, 2])
    data = encode_manifest(ID, {NODE: table}, spec=spec, segmented=segmented)
    revised = 0
    for _ in range(3):
        newer, gone = some_changes(rng, table, kinds)
        old = opened(data)
        found = revise(old, NEW_ID, NODE, newer, gone, spec=spec, segmented=segmented)
        table = table.overlay(newer, gone)
        revised += found is not None
        data = found or encode_manifest(NEW_ID, {NODE: table}, spec=spec, segmented=segmented)
        fresh = opened(data)
        assert (fresh.id, fresh.spec, fresh.segments is not None) == (NEW_ID, spec, segmented)
        if len(newer):
            middle = len(newer) // 2
            assert fresh.find(NODE, tuple(newer.coords[middle].tolist()), table.extents()) == newer.ref(middle)
        assert_equal(fresh.table(NODE), table)
        if fresh.segments is not None:
            assert bytes(open_envelope(data, FileType.MANIFEST, "x")[1]) == bytes(fresh.segments.buf)
    assert revised >= 2


def test_the_old_manifest_is_left_as_it_is() -> None:
    for segmented in (False, True):
        data = encode_manifest(ID, {NODE: TABLES["native"]}, spec=1, segmented=segmented)
        old = opened(data)
        for newer in (native_table(COORDS[::50], 5), virtual_table(COORDS[::50], 3)):
            assert revise(old, NEW_ID, NODE, newer, None, spec=1, segmented=segmented)
        assert old.id == ID
        assert_equal(old.table(NODE), TABLES["native"])


def test_native_references_are_patched_in_place_in_files_of_the_reference() -> None:
    refs: Refs = {tuple(row): Native(bytes(12), 5 + index) for index, row in enumerate(COORDS.tolist())}
    old = opened(plain_file(built({NODE: refs})))
    newer = native_table(COORDS[10::100], 3)
    data = revise(old, NEW_ID, NODE, newer, None, spec=1)
    assert data is not None
    assert opened(data).doc.size == old.doc.size
    assert_equal(opened(data).table(NODE), ChunkTable.from_refs(refs, 3).overlay(newer))


@pytest.mark.parametrize("packed_before", [False, True])
def test_chunks_of_packs_in_files_of_the_reference(packed_before: bool) -> None:
    """It leaves out offsets that are zero: there is no place for one then, and nothing may be patched."""
    before = packed_table(COORDS, 1) if packed_before else native_table(COORDS, 1)
    old = opened(plain_file(built({NODE: content(before)})))
    assert_equal(old.table(NODE), before)
    for newer in (packed_table(COORDS[10::100], 3), native_table(COORDS[10::100], 3)):
        data = revise(old, NEW_ID, NODE, newer, None, spec=1)
        if data is not None:
            assert_equal(opened(data).table(NODE), before.overlay(newer))


def test_files_of_the_reference_are_written_anew_for_anything_else() -> None:
    refs: Refs = {tuple(row): Virtual("s3://b/k", index, 5) for index, row in enumerate(COORDS.tolist())}
    old = opened(plain_file(built({NODE: refs})))
    assert revise(old, NEW_ID, NODE, native_table(COORDS[:5]), None, spec=1) is None
    assert revise(old, NEW_ID, NODE, virtual_table(COORDS[:5], 3), None, spec=1) is None
    assert revise(old, NEW_ID, NODE, ChunkTable.empty(3), COORDS[:5], spec=1) is None


def test_compressed_segments_are_reused_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_encoding, "SEGMENT_SIZE", 20_000)
    monkeypatch.setattr(manifest_revision, "SEGMENT_SIZE", 20_000)
    data = encode_manifest(ID, {NODE: TABLES["native"]}, spec=1, segmented=True)
    old = opened(data).segments
    assert old is not None and len(old.bounds) > 8
    blocks = [bytes(old.blocks(number)) for number in range(len(old.bounds))]
    patched = revise(opened(data), NEW_ID, NODE, native_table(COORDS[:1], 9), None, spec=1, segmented=True)
    appended = revise(opened(data), NEW_ID, NODE, native_table(np.array([[99, 0, 0]]), 9), None, spec=1, segmented=True)
    assert patched is not None and appended is not None
    for revised, same in ((patched, {1, *range(3, len(blocks))}), (appended, set(range(2, len(blocks) - 1)))):
        segments = opened(revised).segments
        assert segments is not None
        kept = {number for number in same if bytes(segments.blocks(number)) == blocks[number]}
        assert kept == same


def test_dead_rows_end_in_a_rewrite() -> None:
    table = TABLES["native"]
    data: bytes | None = encode_manifest(ID, {NODE: table}, spec=1)
    for _ in range(20):
        newer = virtual_table(COORDS[::5], 3)
        assert data is not None
        size = opened(data).doc.size
        data = revise(opened(data), NEW_ID, NODE, newer, None, spec=1)
        if data is None:
            return
        assert opened(data).doc.size > size
    pytest.fail("dead rows pile up without end")


def test_what_cannot_be_revised() -> None:
    table, newer = TABLES["native"], native_table(COORDS[:3], 1)
    data = encode_manifest(ID, {NODE: table}, spec=1)
    old = opened(data)
    compressed = encode_manifest(
        ID, {NODE: TABLES["virtual, neighbours alike"]}, spec=2, location_compression=LocationCompression()
    )
    two = opened(encode_manifest(ID, {NODE: table, OTHER: newer}, spec=1))
    small = opened(encode_manifest(ID, {NODE: table.take(slice(0, 900))}, spec=1))
    segmented = opened(encode_manifest(ID, {NODE: table}, spec=1, segmented=True))
    assert revise(old, NEW_ID, OTHER, newer, None, spec=1) is None
    assert revise(old, NEW_ID, NODE, newer, None, spec=1, segmented=True) is None
    assert revise(old, NEW_ID, NODE, native_table(COORDS[::2]), None, spec=1) is None
    assert revise(old, NEW_ID, NODE, ChunkTable.empty(3), COORDS, spec=1) is None
    assert revise(old, NEW_ID, NODE, native_table(np.array([[1, 2]])), None, spec=1) is None
    assert revise(opened(compressed), NEW_ID, NODE, newer, None, spec=1) is None
    assert revise(two, NEW_ID, NODE, newer, None, spec=1) is None
    assert revise(small, NEW_ID, NODE, newer, None, spec=1) is None
    plain = revise(segmented, NEW_ID, NODE, newer, None, spec=1)
    assert plain is not None and opened(plain).segments is None
    assert_equal(opened(plain).table(NODE), table.overlay(newer))


# -------------------------------------------------------------------- one reference at a time

few_edits = st.integers(0, 3).flatmap(
    lambda ndim: st.lists(
        st.dictionaries(
            st.tuples(*[st.integers(0, 4)] * ndim), st.none() | inline | native | virtual, min_size=1, max_size=9
        ),
        min_size=1,
        max_size=6,
    )
)


@settings(deadline=None, max_examples=150)
@given(steps=few_edits, spec=st.sampled_from([1, 2]), level=st.sampled_from([1, 3]))
def test_manifests_of_few_references_grow_by_revision(
    steps: list[dict[tuple[int, ...], ChunkRef | None]], spec: int, level: int
) -> None:
    refs: Refs = {coords: ref for coords, ref in steps[0].items() if ref is not None}
    data = encode_few(ID, NODE, refs, spec=spec, level=level)
    check(data, {NODE: refs})
    for edits in steps[1:]:
        found = revise_few(opened(data), NEW_ID, NODE, edits, spec=spec, level=level)
        refs = {coords: ref for coords, ref in (refs | edits).items() if ref is not None}
        if found is None:  # too little is left of it
            data = encode_few(NEW_ID, NODE, refs, spec=spec, level=level)
        else:
            data = found.data
            assert found.num_refs == len(refs)
        assert (opened(data).id, opened(data).spec) == (NEW_ID, spec)
        check(data, {NODE: refs})


def test_what_was_written_by_columns_grows_by_revision_too() -> None:
    for name in ("virtual, neighbours alike", "mixed"):
        table = TABLES[name].take(slice(0, 3000))
        old = opened(encode_manifest(ID, {NODE: table}, spec=2, location_compression=LocationCompression()))
        edits: dict[tuple[int, ...], ChunkRef | None] = {(50, 0, 0): Inline(b"x"), (0, 0, 0): None}
        found = revise_few(old, NEW_ID, NODE, edits, spec=2, level=3)
        assert found is not None and found.num_refs == 3000
        expected = {coords: ref for coords, ref in (content(table) | edits).items() if ref is not None}
        assert content(opened(found.data).table(NODE)) == expected
        assert content(old.table(NODE)) == content(table)


def test_dead_rows_of_few_references_end_in_a_rewrite() -> None:
    data = encode_few(ID, NODE, {(row,): Inline(b"old") for row in range(12)}, spec=1, level=3)
    for row in range(4):
        found = revise_few(opened(data), ID, NODE, {(row,): Inline(b"new")}, spec=1, level=3)
        assert found is not None
        data = found.data
    assert revise_few(opened(data), ID, NODE, {(4,): Inline(b"new")}, spec=1, level=3) is None


def test_what_is_left_to_columns() -> None:
    edit: dict[tuple[int, ...], ChunkRef | None] = {(1, 2, 3): Inline(b"x")}
    table = TABLES["native"]
    small = table.take(slice(0, 900))
    compressed = encode_manifest(
        ID,
        {NODE: TABLES["virtual, neighbours alike"].take(slice(0, 2000))},
        spec=2,
        location_compression=LocationCompression(),
    )
    for data, node, spec in (
        (plain_file(built({NODE: content(small)})), NODE, 1),  # not our layout
        (encode_manifest(ID, {NODE: small}, spec=1), OTHER, 1),
        (encode_manifest(ID, {NODE: small, OTHER: small}, spec=1), NODE, 1),
        (encode_manifest(ID, {NODE: table}, spec=1), NODE, 1),  # too large
        (encode_manifest(ID, {NODE: table}, spec=1, segmented=True), NODE, 1),
        (encode_few(ID, NODE, {(1,): Inline(b"x")}, spec=1, level=3), NODE, 1),  # another rank
        (compressed, NODE, 1),
    ):
        assert revise_few(opened(data), NEW_ID, node, edit, spec=spec, level=3) is None
    one = encode_few(ID, NODE, {(1, 2, 3): Inline(b"x")}, spec=1, level=3)
    assert revise_few(opened(one), NEW_ID, NODE, {(1, 2, 3): None}, spec=1, level=3) is None  # nothing would be left


def test_compressed_locations_survive_a_revision() -> None:
    table = TABLES["virtual, neighbours alike"]
    data = encode_manifest(ID, {NODE: table}, spec=2, location_compression=LocationCompression())
    newer = virtual_table(COORDS[7::100], 4, etags="e")
    revised = revise(opened(data), NEW_ID, NODE, newer, None, spec=2)
    assert revised is not None
    assert_equal(opened(revised).table(NODE), table.overlay(newer))
    coords = tuple(newer.coords[1].tolist())
    assert opened(revised).find(NODE, coords) == newer.ref(1)


# -------------------------------------------------------------------- hostile files


def read_everything(data: bytes) -> None:
    """What a session might do with a manifest; raises nothing but `FormatError`."""
    try:
        found = opened(data)
        for node in found.node_ids():
            for coords in ((0,), (1,), (2,), (0, 0, 0), (5, 1, 2), ()):
                found.find(node, coords)
                found.find(node, coords, ((0, 9),) * len(coords))
    except FormatError:
        pass
    try:
        found = opened(data)
        for node in found.node_ids():
            table = found.table(node)
            assert table.locations is None or len(table.locations) <= len(table)
            for _ in table.items():
                pass
    except FormatError:
        pass


@settings(deadline=None, max_examples=250)
@given(st.integers(0, 2**32), st.sampled_from(["v1", "v2", "mixed", "compressed", "built"]))
def test_damaged_manifests_end_in_a_format_error(seed: int, which: str) -> None:
    rng = random.Random(seed)
    damaged = bytearray(PAYLOADS[which])
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(min(len(damaged), rng.choice([100, 10_000])))
        if rng.random() < 0.5:
            damaged[at] ^= 1 << rng.randrange(8)
        else:
            damaged[at : at + 4] = struct.pack(
                "<I", rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(5000)])
            )
    size = len(damaged) if rng.random() < 0.8 else rng.randrange(len(damaged))
    read_everything(plain_file(bytes(damaged[:size]), 2))


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
def test_damaged_segmented_manifests_end_in_a_format_error(seed: int) -> None:
    rng = random.Random(seed)
    damaged = bytearray(SEGMENTED)
    for _ in range(rng.choice([1, 3])):
        start = rng.choice([0, len(damaged) - 200])
        damaged[start + rng.randrange(200)] ^= 1 << rng.randrange(8)
    read_everything(bytes(damaged))


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 100_000])
def test_counts_beyond_the_file_fail_at_once(count: int) -> None:
    payload = bytearray(V1)
    found = opened(plain_file(V1))
    vector = found.array_at(0).vector
    struct.pack_into("<I", payload, vector.start - 4, count)
    with pytest.raises(FormatError, match=r"manifests/X: ArrayManifest\.refs: "):
        opened(plain_file(bytes(payload))).table(parse_id("TH7A2GAG94WXW", 8))
    arrays = bytearray(V1)
    struct.pack_into("<I", arrays, found._arrays.start - 4, count)
    with pytest.raises(FormatError, match=r"Manifest\.arrays"):
        opened(plain_file(bytes(arrays)))


def test_a_million_references_to_one_table_are_refused() -> None:
    head = bytearray(V1)
    vector = opened(plain_file(V1)).array_at(0).vector
    struct.pack_into("<I", head, vector.start - 8, len(head) - (vector.start - 8))
    payload = bytes(head) + struct.pack("<I", 1_000_000) + bytes(4_000_000)
    with pytest.raises(FormatError, match="1000000 do not fit into"):
        opened(plain_file(payload)).num_refs  # noqa: B018


def test_a_reference_to_nothing_is_refused() -> None:
    values = {"id": ID, "arrays": [{"node_id": NODE, "refs": [{"index": [0], "length": 5}]}]}
    found = opened(plain_file(build(MANIFEST, values, FILE_IDENTIFIER)))
    for read in (lambda: found.find(NODE, (0,)), lambda: found.table(NODE)):
        with pytest.raises(FormatError, match="ChunkRef: is neither inline, native nor virtual"):
            read()


def test_compressed_locations_need_a_dictionary() -> None:
    refs = [{"index": [0], "compressed_location": RAW_DICTIONARY_FRAME}]
    for options in ({}, {"location_dictionary": b"abc", "compression_algorithm": 0}):
        values = {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}], **options}
        found = opened(plain_file(build(MANIFEST, values, FILE_IDENTIFIER), 2))
        with pytest.raises(FormatError, match="no decompression dictionary available"):
            found.find(NODE, (0,))
        with pytest.raises(FormatError, match="no decompression dictionary available"):
            found.table(NODE).find((0,))
        with pytest.raises(FormatError, match="no decompression dictionary available"):
            found.table(NODE).locations  # noqa: B018


def test_a_location_that_expands_without_end_is_refused() -> None:
    dictionary = zstandard.ZstdCompressionDict(b"0" * 64)
    for options in ({}, {"write_content_size": False}):
        compressor = zstandard.ZstdCompressor(dict_data=dictionary, **options)
        refs = [{"index": [0], "compressed_location": compressor.compress(bytes(10_000_000))}]
        values = {"id": ID, "arrays": [{"node_id": NODE, "refs": refs}], "location_dictionary": b"0" * 64}
        found = opened(plain_file(build(MANIFEST, values, FILE_IDENTIFIER), 2))
        with pytest.raises(FormatError, match=r"ChunkRef\.compressed_location: cannot be decompressed"):
            found.find(NODE, (0,))


def _payload(table: ChunkTable, **options: Any) -> bytes:
    return bytes(open_envelope(encode_manifest(ID, {NODE: table}, spec=2, **options), FileType.MANIFEST, "x")[1])


PAYLOADS = {
    "v1": V1,
    "v2": V2,
    "mixed": _payload(mixed_table(COORDS[:60])),
    "compressed": _payload(virtual_table(COORDS[:60], 9), location_compression=LocationCompression(min_num_chunks=1)),
    "built": built({NODE: content(mixed_table(COORDS[:60]))}),
}
SEGMENTED = encode_manifest(ID, {NODE: virtual_table(grid(17), 9)}, spec=1, segmented=True)
assert manifest_layout.ROOMY_FROM < 17**3
