"""A hundred thousand chunks that share objects, in every layout a manifest can have: what is read is what was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from icechunk.format import manifest_encoding, manifest_revision
from icechunk.format.chunk_ref import ChunkRef, Native
from icechunk.format.chunk_table import NATIVE, ChunkTable
from icechunk.format.manifest import Manifest, encode_few, encode_manifest, revise_few, revise_manifest

ID, NODE = b"manifest id!", b"node-001"
ROWS, COLUMNS = 250, 400
GRID = np.stack(np.unravel_index(np.arange(ROWS * COLUMNS), (ROWS, COLUMNS)), 1).astype(np.uint32)


def packed(coords: Any, seed: int) -> ChunkTable:
    """Chunks of 1 to 30000 bytes, one behind the other in objects of some two megabytes; each hundredth has one alone."""
    count = len(coords)
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30_000, count).astype(np.uint64)
    ends = np.cumsum(lengths)
    objects, first = np.unique(ends // np.uint64(2 << 20), return_index=True)
    number = np.searchsorted(first, np.arange(count), "right") - 1
    offsets = 16 + ends - lengths - (ends - lengths)[first[number]]
    ids = rng.integers(0, 256, (len(objects), 12), np.uint8)[number]
    alone = np.arange(count) % 100 == 0
    ids[alone] = rng.integers(0, 256, (int(alone.sum()), 12), np.uint8)
    offsets[alone] = 0
    return ChunkTable(coords, np.full(count, NATIVE, np.uint8), lengths, offsets, chunk_ids=ids)


BASE = packed(GRID, 0)


def assert_holds(data: bytes, expected: ChunkTable) -> None:
    """By column, and some by lookup in a manifest of which nothing was read before."""
    found = Manifest.decode(data, "manifests/X")
    assert found.num_refs == len(expected)
    rng = np.random.default_rng(1)
    for row in [0, len(expected) - 1, *rng.integers(0, len(expected), 20).tolist()]:
        coords = tuple(expected.coords[row].tolist())
        assert found.find(NODE, coords, expected.extents()) == expected.ref(row)
    table = Manifest.decode(data, "manifests/X").table(NODE)
    for name in ("coords", "kind", "offset", "length", "chunk_ids"):
        assert (getattr(table, name) == getattr(expected, name)).all(), name


def encoded(table: ChunkTable, spec: int, segmented: bool) -> bytes:
    return encode_manifest(ID, {NODE: table}, spec=spec, segmented=segmented)


CHANGES: dict[str, Callable[[], tuple[ChunkTable, Any]]] = {
    "patched": lambda: (packed(GRID[5000:7000], 1), None),
    "patched everywhere": lambda: (packed(GRID[::90], 2), None),
    "appended": lambda: (packed(GRID[:3000] + np.array([ROWS, 0], np.uint32), 3), None),
    "patched and appended": lambda: (packed(GRID[-1000:] + np.array([2, 0], np.uint32), 4), None),
    "thinned": lambda: (ChunkTable.empty(2), GRID[::70]),
    "everything": lambda: (packed(GRID[40_000:42_000], 5), GRID[41_000:60_000:5]),
}


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (manifest_encoding, manifest_revision):
        monkeypatch.setattr(module, "SEGMENT_SIZE", 200_000)


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("spec", [1, 2])
def test_what_is_written_is_read(spec: int, segmented: bool) -> None:
    data = encoded(BASE, spec, segmented)
    assert_holds(data, BASE)
    found = Manifest.decode(data, "manifests/X")
    assert found.spec == spec
    assert (found.segments is not None and len(found.segments.bounds) > 10) is segmented


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_revised_is_what_an_overlay_is(change: str, spec: int, segmented: bool) -> None:
    """Twice, so that what was revised once is revised again."""
    data, table = encoded(BASE, spec, segmented), BASE
    first, gone = CHANGES[change]()
    for newer in (first, packed(first.coords[::3], 6)):
        old = Manifest.decode(data, "manifests/X")
        revised = revise_manifest(old, ID, NODE, newer, gone, spec=spec, segmented=segmented)
        table, gone = table.overlay(newer, gone), None
        assert revised is not None or not len(newer)
        data = encoded(table, spec, segmented) if revised is None else revised.data
        assert_holds(data, table)


@pytest.mark.parametrize("spec", [1, 2])
def test_few_become_more_one_at_a_time(spec: int) -> None:
    """Manifests of few references, written with and without offsets, and those written by columns."""
    refs: dict[tuple[int, ...], ChunkRef] = {(0, column): Native(bytes([column]) * 12, 9) for column in range(40)}
    for data in (encode_few(ID, NODE, refs, spec=spec, level=3), encoded(ChunkTable.from_refs(refs, 2), spec, False)):
        expected = dict(refs)
        for number, row in enumerate(range(0, 600, 15)):
            edits = {(number % 3, column): BASE.ref(row + column) for column in range(number, number + 5)}
            expected |= edits
            revised = revise_few(Manifest.decode(data, "X"), ID, NODE, edits, spec=spec, level=3)
            data = encode_few(ID, NODE, expected, spec=spec, level=3) if revised is None else revised.data
            found = Manifest.decode(data, "X")
            assert dict(found.table(NODE).items()) == expected
            for coords in edits:
                assert Manifest.decode(data, "X").find(NODE, coords) == expected[coords]
