"""Which manifests a commit writes, keeps and drops."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk._driver import run
from icechunk.assets import Assets
from icechunk.change_set import ChunkEdits
from icechunk.format.chunk_ref import Inline
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.snapshot import DimensionShape, Node
from icechunk.manifest_writer import ManifestSettings, write_manifests
from icechunk.storage.memory import MemoryStorage

SETTINGS = ManifestSettings(spec=2)
NODE_ID = b"nodeidno"


def node_of(grid, manifests=()):
    shape = tuple(DimensionShape(chunks, chunks, 1) for chunks in grid)
    return Node(NODE_ID, "/a", True, b"{}", shape, None, tuple(manifests))


def cuts(length, step):
    return (*range(0, length, step), length)


def refs_of(assets, node):
    found = {}
    for ref in node.manifests:
        table = run(assets.manifest(ref.id)).table(node.id)
        for coords, one in table.items():
            assert coords not in found
            assert all(start <= at < stop for at, (start, stop) in zip(coords, ref.extents, strict=True))
            found[coords] = one
    return found


@st.composite
def histories(draw):
    ndim = draw(st.integers(0, 3))
    commits = []
    for _ in range(draw(st.integers(1, 4))):
        grid = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
        steps = tuple(draw(st.integers(1, 5)) for _ in range(ndim))
        everywhere = list(itertools.product(*map(range, grid)))
        written = draw(st.dictionaries(st.sampled_from(everywhere), st.binary(min_size=1, max_size=3), max_size=8))
        deleted = draw(st.sets(st.sampled_from(everywhere), max_size=4))
        commits.append((grid, steps, written, deleted, draw(st.booleans())))
    return commits


@given(histories())
@settings(max_examples=150, deadline=None)
def test_manifests_hold_what_was_written_whatever_the_splitting(commits):
    assets = Assets(MemoryStorage())
    manifests, model = (), {}
    for grid, steps, written, deleted, rewrite in commits:
        if manifests and len(grid) != len(manifests[0].extents):
            return
        edits = ChunkEdits(len(grid), path="/a")
        for coords in deleted:
            edits.set(coords, None)
        for coords, data in written.items():
            edits.set(coords, Inline(data))
        node = node_of(grid, manifests)
        edges = [cuts(length, step) for length, step in zip(grid, steps, strict=True)]
        result = run(write_manifests(node, edits, edges, assets, SETTINGS, rewrite=rewrite))
        for coords in deleted:
            model.pop(coords, None)
        model.update({coords: Inline(data) for coords, data in written.items()})
        model = {
            coords: ref for coords, ref in model.items() if all(at < n for at, n in zip(coords, grid, strict=True))
        }
        assert {ref.id for ref in manifests} - result.dropped == {ref.id for ref in result.refs} - {
            file.id for file in result.added
        }
        manifests = result.refs
        assert refs_of(assets, node_of(grid, manifests)) == model
        assert sum(file.count for file in result.added if file.id in {ref.id for ref in manifests}) <= len(model)


def commit(assets, node, edges, refs=(), deleted=()):
    edits = ChunkEdits(len(node.shape), path="/a")
    for coords in deleted:
        edits.set(coords, None)
    for coords in refs:
        edits.set(coords, Inline(b"x"))
    return run(write_manifests(node, edits, edges, assets, SETTINGS))


def test_untouched_pieces_are_kept():
    assets = Assets(MemoryStorage())
    edges = [(0, 2, 4)]
    first = commit(assets, node_of((4,)), edges, [(0,), (1,), (3,)])
    assert [ref.extents for ref in first.refs] == [((0, 2),), ((3, 4),)]
    second = commit(assets, node_of((4,), first.refs), edges, [(2,)])
    assert second.refs[0] == first.refs[0]
    assert second.dropped == {first.refs[1].id}
    assert len(second.added) == 1


def test_a_piece_left_without_references_has_no_manifest():
    assets = Assets(MemoryStorage())
    edges = [(0, 2, 4)]
    first = commit(assets, node_of((4,)), edges, [(0,), (3,)])
    second = commit(assets, node_of((4,), first.refs), edges, deleted=[(3,)])
    assert second.refs == first.refs[:1]


def test_manifests_of_a_coarser_past_are_cut_where_they_are_touched():
    assets = Assets(MemoryStorage())
    first = commit(assets, node_of((4,)), [(0, 4)], [(0,), (1,), (2,), (3,)])
    second = commit(assets, node_of((4,), first.refs), [(0, 2, 4)], [(0,)])
    assert [ref.extents for ref in second.refs] == [((0, 2),), ((2, 4),)]


def test_bulk_edits_fall_into_their_pieces():
    assets = Assets(MemoryStorage())
    coords = np.array(list(itertools.product(range(10), range(10))), np.uint32)
    edits = ChunkEdits(2, path="/a")
    edits.set_many(ChunkTable.from_columns(coords, ["s3://b/k"] * 100, np.arange(100), np.full(100, 7)))
    result = run(write_manifests(node_of((10, 10)), edits, [cuts(10, 3), cuts(10, 10)], assets, SETTINGS))
    assert [ref.extents for ref in result.refs] == [
        ((0, 3), (0, 10)),
        ((3, 6), (0, 10)),
        ((6, 9), (0, 10)),
        ((9, 10), (0, 10)),
    ]
    assert [file.count for file in result.added] == [30, 30, 30, 10]
