"""Snapshots: bytes of the reference, look-ups, the next snapshot from the bytes of the one before, damaged files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.damage import damages

from icechunk.errors import FormatError, InternalError
from icechunk.flatbuf.builder import build
from icechunk.flatbuf.schema import U32, Required, Table
from icechunk.format import node_writer, snapshot_encoding, snapshot_few
from icechunk.format.envelope import FileType, open_envelope, seal
from icechunk.format.ids import INITIAL_SNAPSHOT_ID, parse_id
from icechunk.format.landmark import read_landmark, write_landmark
from icechunk.format.schemas import FILE_IDENTIFIER, NODE_SNAPSHOT, SNAPSHOT
from icechunk.format.snapshot import (
    DimensionShape,
    ManifestFile,
    ManifestRef,
    Node,
    Snapshot,
    encode_initial_snapshot,
    encode_snapshot,
)

REPOS = Path(__file__).parent.parent / "golden" / "repos"

INITIAL_V1 = bytes.fromhex(
    "200000004963686b00000000000012002c000400000010002000140018001c00120000000b1cc8d6787580f0e33a65341c0000001c0000"
    "003400000060000000ef85f9e5e06006000000000000000000160000005265706f7369746f727920696e697469616c697a656400000100"
    "00000c00000008000c000400080008000000100000000400000001000000c3000000060000005f5f726f6f74000000000000"
)

INITIAL_V1_FILE = bytes.fromhex(
    "494345f09fa78a4348554e4b69632d302e332e323420202020202020202020202020202001010128b52ffd0058f5030092c81b2990b799"
    "0357bd5f71ef3bacaaaadeb71c56d9da612cb4114c7a9aa38a2e2e2b1e12dd9bb037440492147ff61e56557f5ef02614ea8c428fde2cb9"
    "045c05e23267715300f632877997eb71c5c74250682058b875eaed8dba1a090c031980038376b8b45d4c9c22ee6494522611c7a7040075"
    "88681b6e5140fb0272"
)

NODES_V1 = bytes.fromhex(
    "1c0000004963686b000012003400040010001c002c0020002400280012000000c60f532ca45b6329d4bf11a50b1cc8d6787580f0e33a65"
    "3418000000440200004802000070020000b9abf9e5e060060002000000d40100000400000042feffff00000001d44ea141504939dea401"
    "00000800000028010000160100007b227a6172725f666f726d6174223a332c226e6f64655f74797065223a226172726179222c22736861"
    "7065223a5b335d2c22646174615f74797065223a2275696e7438222c226368756e6b5f67726964223a7b226e616d65223a22726567756c"
    "6172222c22636f6e66696775726174696f6e223a7b226368756e6b5f7368617065223a5b315d7d7d2c226368756e6b5f6b65795f656e63"
    "6f64696e67223a7b226e616d65223a2264656661756c74222c22636f6e66696775726174696f6e223a7b22736570617261746f72223a22"
    "2f227d7d2c2266696c6c5f76616c7565223a302c22636f64656373223a5b7b226e616d65223a226279746573227d5d2c2264696d656e73"
    "696f6e5f6e616d6573223a5b2278225d7d0a001000040008000c000a0000000c0000001c00000038000000010000000300000000000000"
    "0100000000000000010000000c000000000006000800040006000000040000000100000078000000010000000c00000008001400040010"
    "0008000000f262d8f4681546c347e32cd104000000010000000000000003000000020000002f61000000000e001c000800100014000700"
    "18000e00000000000002f1309922c1b347ea400000000800000034000000250000007b227a6172725f666f726d6174223a332c226e6f64"
    "655f74797065223a2267726f7570227d0000000400040004000000010000002f000000010000006d000000010000000c00000008000c00"
    "040008000800000010000000040000000100000001000000010000006e00000001000000f262d8f4681546c347e32cd100000000dd0000"
    "00000000000300000000000000"
)

INITIAL_V2 = bytes.fromhex(
    "1c0000004963686b14002c000400000010002400140018001c002000140000000b1cc8d6787580f0e33a65341c0000001c000000340000"
    "007400000078000000b44c08e6e060060000000000160000005265706f7369746f727920696e697469616c697a65640000010000000c00"
    "000008000c00040008000800000020000000040000001200000069735f726f6f74000109010101016802240100000a0000005f5f696365"
    "6368756e6b0000000000000000000000000000"
)

NODES_V2 = bytes.fromhex(
    "1c0000004963686b14002c000400000010002400140018001c00200014000000c7c440ea7168ee0c7b6703b01c00000060020000640200"
    "008c0200008c020000f26408e6e060060002000000ec010000040000002afeffff0000000179a08af19c907641bc010000080000002c01"
    "0000160100007b227a6172725f666f726d6174223a332c226e6f64655f74797065223a226172726179222c227368617065223a5b335d2c"
    "22646174615f74797065223a2275696e7438222c226368756e6b5f67726964223a7b226e616d65223a22726567756c6172222c22636f6e"
    "66696775726174696f6e223a7b226368756e6b5f7368617065223a5b315d7d7d2c226368756e6b5f6b65795f656e636f64696e67223a7b"
    "226e616d65223a2264656661756c74222c22636f6e66696775726174696f6e223a7b22736570617261746f72223a222f227d7d2c226669"
    "6c6c5f76616c7565223a302c22636f64656373223a5b7b226e616d65223a226279746573227d5d2c2264696d656e73696f6e5f6e616d65"
    "73223a5b2278225d7d00000c001400040008000c0010000c00000018000000300000004c00000004000000010000001000000000000000"
    "080010000800040008000000030000000300000000000000010000000c0000000000060008000400060000000400000001000000780000"
    "00010000000c000000080014000400100008000000448b0c8bef73c62cb515ed2804000000010000000000000003000000020000002f61"
    "000000000e001c00080010001400070018000e0000000000000290f5c3a910ba7e0e400000000800000034000000250000007b227a6172"
    "725f666f726d6174223a332c226e6f64655f74797065223a2267726f7570227d0000000400040004000000010000002f00000001000000"
    "6d000000010000000c00000008000c00040008000800000010000000040000000300000001080100010000006e00000000000000010000"
    "001000000000000a001c000400140010000a000000448b0c8bef73c62cb515ed2803000000e700000000000000"
)

GROUP = b'{"zarr_format":3,"node_type":"group"}'


def wrap(payload: bytes, spec: int) -> bytes:
    return seal(payload, FileType.SNAPSHOT, spec=spec, level=1)


def decode(data: bytes) -> Snapshot:
    return Snapshot.decode(data, "snapshots/X")


def write(
    nodes: Iterable[Node] = (),
    *,
    spec: int = 2,
    base: Snapshot | None = None,
    gone: Iterable[str] = (),
    files: Iterable[ManifestFile] = (),
    dropped: Iterable[bytes] = (),
    segmented: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Snapshot:
    """The snapshot with these nodes, read from its bytes."""
    data = encode_snapshot(
        spec=spec,
        id=b"snapshot-id.",
        parent_id=b"parent-id...",
        flushed_at=1_700_000_000_000_000,
        message="message",
        metadata=metadata or {},
        base=base,
        changes={**dict.fromkeys(gone), **{node.path: node for node in nodes}},
        add_manifests=files,
        drop_manifests=set(dropped),
        segmented=segmented,
    )
    return decode(data)


def group(path: str, number: int = 0) -> Node:
    return Node(number.to_bytes(8, "big"), path, False, GROUP)


def array(path: str, number: int = 0, manifests: tuple[ManifestRef, ...] = (), **values: Any) -> Node:
    fields: dict[str, Any] = {"shape": (DimensionShape(10, 4),), "dimension_names": None} | values
    return Node(number.to_bytes(8, "big"), path, True, b'{"n":%d}' % number, manifests=manifests, **fields)


def file_id(number: int) -> bytes:
    return number.to_bytes(12, "big")


# ---- files of the reference


def test_the_initial_snapshot_of_1x() -> None:
    snapshot = decode(INITIAL_V1_FILE)
    assert snapshot.spec == 1
    assert snapshot.id == INITIAL_SNAPSHOT_ID
    assert snapshot.parent_id is None
    assert snapshot.flushed_at == 1795368907539951
    assert snapshot.message == "Repository initialized"
    assert snapshot.metadata == {"__root": True}
    assert len(snapshot) == 0
    assert snapshot.paths() == []
    assert snapshot.manifest_files() == []
    assert snapshot.nbytes == len(INITIAL_V1) == 160


def test_the_initial_snapshot_of_2x() -> None:
    snapshot = decode(wrap(INITIAL_V2, 2))
    assert snapshot.id == INITIAL_SNAPSHOT_ID
    assert snapshot.metadata == {"__icechunk": {"is_root": True}}
    assert snapshot.find("/") is None


@pytest.mark.parametrize("spec", [1, 2])
def test_our_initial_snapshot_says_the_same(spec: int) -> None:
    ours, theirs = decode(encode_initial_snapshot(spec, 1795368907539951)), decode(wrap(INITIAL_V2, 2))
    assert ours.spec == spec
    for name in ("id", "parent_id", "message", "metadata"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.flushed_at == 1795368907539951
    assert len(ours) == 0


def test_a_snapshot_of_1x_with_nodes() -> None:
    snapshot = decode(wrap(NODES_V1, 1))
    manifest = parse_id("Y9HDHX382N3C6HZ35K8G")
    assert snapshot.id == parse_id("RR7N6B54BDHJKN5Z26JG")
    assert snapshot.parent_id == INITIAL_SNAPSHOT_ID
    assert (snapshot.message, snapshot.metadata) == ("m", {"n": 1})
    assert snapshot.paths() == ["/", "/a"]
    root, found = snapshot.nodes()
    assert (root.path, root.is_array, root.metadata) == ("/", False, GROUP)
    assert found.id == parse_id("TH7A2GAG94WXW", 8)
    assert found.shape == (DimensionShape(3, 3, 1),)
    assert found.dimension_names == ("x",)
    assert found.manifests == (ManifestRef(manifest, ((0, 3),)),)
    assert found.metadata.startswith(b'{"zarr_format":3,"node_type":"array"')
    assert found.metadata.endswith(b'"dimension_names":["x"]}')
    assert snapshot.manifest_files() == [ManifestFile(manifest, 221, 3)]


def test_a_snapshot_of_2x_with_nodes() -> None:
    snapshot = decode(wrap(NODES_V2, 2))
    manifest = parse_id("8J5GS2ZFEF32SD8NXMM0")
    assert snapshot.parent_id is None
    assert snapshot.metadata == {"n": 1}
    found = snapshot.find("/a")
    assert found is not None
    assert found.shape == (DimensionShape(3, 3, None),)
    assert found.manifests == (ManifestRef(manifest, ((0, 3),)),)
    assert snapshot.manifest_file(manifest) == ManifestFile(manifest, 231, 3)
    assert snapshot.manifest_file(b"another id..") is None


FIXTURES = sorted(REPOS.glob("*/snapshots/*"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("spec", [1, 2])
def test_snapshots_of_all_fixtures_survive_being_written_again(path: Path, spec: int, segmented: bool) -> None:
    theirs = decode(path.read_bytes())
    carried = write(spec=spec, base=theirs, segmented=segmented)
    rewritten = write(theirs.nodes(), spec=spec, files=theirs.manifest_files(), segmented=segmented)
    for ours in (carried, rewritten):
        assert ours.paths() == theirs.paths()
        assert list(map(visible, ours.nodes())) == list(map(visible, theirs.nodes()))
        assert ours.manifest_files() == sorted(theirs.manifest_files())


def visible(node: Node) -> Node:
    """Without what only one of both specs keeps."""
    shape = tuple(DimensionShape(dimension.length, dimension.chunks) for dimension in node.shape)
    return replace(node, shape=shape, manifests=tuple(sorted(node.manifests)))


# ---- look-ups


NAMES = ["/", "/a", "/g", "/g-b", "/g.x", "/g/h", "/g/h/i", "/g/x", "/gx", "/é", "/漢/字"]


@pytest.fixture(scope="module", params=[snapshot_few.FEW, -1], ids=["one by one", "by columns"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to write the next snapshot of a small one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_few, "FEW", request.param)
        patch.setattr(node_writer, "_FEW", request.param)
        yield


@pytest.fixture(params=["plain", "spliced", "segmented"])
def tree(request: pytest.FixtureRequest) -> Snapshot:
    nodes = [
        array(path, number) if path in ("/a", "/g/x", "/漢/字") else group(path, number)
        for number, path in enumerate(NAMES)
    ]
    if request.param == "spliced":
        return write(nodes[1::2], base=write(nodes[::2]))
    return write(reversed(nodes), segmented=request.param == "segmented")


def test_nodes_are_found_by_path(tree: Snapshot) -> None:
    for path in NAMES:
        node = tree.find(path)
        assert node is not None
        assert node.path == path
        assert tree.find_id(node.id) == node
        assert tree.is_array(path) == node.is_array
    for path in ("", "/b", "/g/", "/g/h/", "/zz", "a", "/\ud800"):
        assert tree.find(path) is None
        assert not tree.is_array(path)
    assert tree.find_id(b"unknown.") is None


def test_paths_are_sorted_by_their_bytes(tree: Snapshot) -> None:
    assert tree.paths() == sorted(NAMES, key=str.encode)
    assert [node.path for node in tree.nodes()] == tree.paths()


@pytest.mark.parametrize("before", ["nothing", "all paths"])
def test_subtrees_and_children(tree: Snapshot, before: str) -> None:
    if before == "all paths":
        tree.paths()
    assert tree.subtree_paths("/g") == ["/g", "/g/h", "/g/h/i", "/g/x"]
    assert tree.subtree_paths("/漢") == ["/漢/字"]
    assert tree.subtree_paths("/nothing") == []
    assert tree.subtree_paths("/") == tree.paths()
    assert [node.path for node in tree.nodes("/g")] == tree.subtree_paths("/g")
    assert tree.children("/") == ["a", "g", "g-b", "g.x", "gx", "é"]
    assert tree.children("/g") == ["h", "x"]
    assert tree.children("/g/h") == ["i"]
    assert tree.children("/漢") == ["字"]
    assert tree.children("/a") == tree.children("/nothing") == []


def test_arrays(tree: Snapshot) -> None:
    assert tree.array_paths() == ["/a", "/g/x", "/漢/字"]
    assert tree.array_paths(2) == ["/a", "/g/x"]
    assert list(tree.nodes_with_chunks()) == []
    wanted = [node.id for node in tree.nodes("/g")]
    assert tree.paths_by_id([*wanted, b"unknown."]) == {node.id: node.path for node in tree.nodes("/g")}


path_lists = st.lists(
    st.lists(
        st.text(st.sampled_from("ab-/0é").filter(lambda char: char != "/"), min_size=1, max_size=3), max_size=3
    ).map(lambda parts: "/" + "/".join(parts)),
    max_size=12,
    unique=True,
)


@given(path_lists, path_lists, st.booleans())
def test_look_ups_agree_with_plain_python(paths: list[str], more: list[str], segmented: bool) -> None:
    snapshot = write(map(group, paths), segmented=segmented)
    snapshot = write([group(path, 1) for path in more], base=snapshot, segmented=segmented)
    expected = sorted({*paths, *more})
    for under in {*expected, "/", "/a", "/b-"}:
        head = under.rstrip("/") + "/"
        below = [path for path in expected if path.startswith(head) and path != "/"]
        own = [under] if under in expected else []
        assert snapshot.subtree_paths(under) == own + below
        assert snapshot.children(under) == [path[len(head) :] for path in below if "/" not in path[len(head) :]]
    assert snapshot.paths() == expected
    assert {node.path: node.id for node in snapshot.nodes()} == {
        path: int(path in more).to_bytes(8, "big") for path in expected
    }


# ---- what nodes hold


shapes = st.lists(st.tuples(st.integers(0, 2**40), st.integers(1, 2**31)), max_size=5)


@given(shapes, st.integers(1, 2))
def test_shapes_in_both_specs(dimensions: list[tuple[int, int]], spec: int) -> None:
    shape = tuple(
        DimensionShape(length, min(-(-length // chunk_length), 2**32 - 1), chunk_length)
        for length, chunk_length in dimensions
    )
    found = next(write([array("/a", shape=shape)], spec=spec).nodes()).shape
    if spec == 1:
        assert found == shape
    else:
        assert found == tuple(DimensionShape(length, chunks) for length, chunks, _ in shape)


def test_spec_1_stores_a_chunk_length_where_only_the_number_of_chunks_is_known() -> None:
    shape = (DimensionShape(5, 3), DimensionShape(0, 0), DimensionShape(6, 3))
    found = next(write([array("/a", shape=shape)], spec=1).nodes()).shape
    assert found == (DimensionShape(5, 3, 2), DimensionShape(0, 0, 0), DimensionShape(6, 3, 2))


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("names", [None, (), (None, None), ("x", None), ("lat itude", "漢")])
def test_dimension_names(names: tuple[str | None, ...] | None, spec: int) -> None:
    shape = (DimensionShape(4, 2, 2),) * 2 if names else ()
    node = next(write([array("/a", shape=shape, dimension_names=names)], spec=spec).nodes())
    assert node.dimension_names == names


def test_an_empty_dimension_name_reads_as_none() -> None:
    assert next(write([array("/a", dimension_names=("",))]).nodes()).dimension_names == (None,)


@pytest.mark.parametrize("spec", [1, 2])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_manifest_references(spec: int, rank: int) -> None:
    refs = tuple(ManifestRef(file_id(number), ((10 - number, 11 - number),) * rank) for number in range(4))
    node = next(write([array("/a", 1, refs, shape=(DimensionShape(10, 10, 1),) * rank)], spec=spec).nodes())
    in_order = spec == 2 and rank > 0
    assert node.manifests == (tuple(sorted(refs, key=lambda ref: ref.extents)) if in_order else refs)


def test_metadata_is_kept_to_the_byte() -> None:
    nodes = [replace(group(f"/{number}", number), metadata=b" {\n}\0\xff" * number) for number in range(5)]
    assert [node.metadata for node in write(nodes).nodes()] == [node.metadata for node in nodes]


@pytest.mark.parametrize("spec", [1, 2])
def test_properties(spec: int) -> None:
    metadata = {"z": [1, "a", None], "a": {"b": 1.5}, "é": -3}
    assert write(spec=spec, metadata=metadata).metadata == metadata


def test_only_spec_1_stores_the_parent() -> None:
    assert write(spec=1).parent_id == b"parent-id..."
    assert write(spec=2).parent_id is None


# ---- manifests


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize("spec", [1, 2])
def test_the_list_of_manifests_grows_and_shrinks(spec: int, segmented: bool) -> None:
    files = [ManifestFile(file_id(number), 100 + number, number) for number in range(0, 40, 2)]
    snapshot = write(spec=spec, files=reversed(files), segmented=segmented)
    assert snapshot.manifest_files() == files
    new = [ManifestFile(file_id(number), 7, 2**32 - 1) for number in (1, 39, 20)]
    snapshot = write(
        spec=spec, base=snapshot, files=new, dropped=[file_id(0), file_id(38), file_id(99)], segmented=segmented
    )
    expected = {file.id: file for file in [*files[1:-1], *new]}
    assert snapshot.manifest_files() == [expected[key] for key in sorted(expected)]
    assert [bytes(row) for row in snapshot.manifest_ids()] == sorted(expected)
    for number in range(41):
        assert snapshot.manifest_file(file_id(number)) == expected.get(file_id(number))


def test_users_of_manifests_are_counted() -> None:
    one, two = ManifestRef(file_id(1), ((0, 1),)), ManifestRef(file_id(2), ((1, 2),))
    snapshot = write([group("/"), array("/a", 1, (one, two)), array("/b", 2, (one,)), array("/c", 3)])
    assert snapshot.manifest_users({file_id(1), file_id(2), file_id(3)}) == {
        file_id(1): 2,
        file_id(2): 1,
        file_id(3): 0,
    }
    assert snapshot.manifest_users(()) == {}
    assert [node.path for node in snapshot.nodes_with_chunks()] == ["/a", "/b"]


# ---- one snapshot after the other


node_values = st.builds(
    lambda number, is_array, text, refs: (
        array(
            "/",
            number,
            tuple(ManifestRef(file_id(ref), ((ref, ref + 1), (0, 2))) for ref in sorted(refs)),
            shape=(DimensionShape(number, number), DimensionShape(2, 2)),
            dimension_names=None if number % 3 else (text, None),
        )
        if is_array
        else replace(group("/", number), metadata=text.encode())
    ),
    st.integers(1, 2**32 - 1),
    st.booleans(),
    st.text(min_size=1, max_size=40),
    st.sets(st.integers(0, 9), max_size=3),
)
edits = st.lists(st.dictionaries(st.sampled_from(NAMES), st.none() | node_values, max_size=4), max_size=8)


@pytest.mark.usefixtures("way")
@given(edits, st.lists(st.booleans(), min_size=8, max_size=8))
def test_a_line_of_snapshots_agrees_with_a_dict(steps: list[dict[str, Node | None]], segmented: list[bool]) -> None:
    model: dict[str, Node] = {}
    snapshot = write()
    for step, in_segments in zip(steps, segmented, strict=False):
        new = {path: replace(node, path=path) for path, node in step.items() if node is not None}
        gone = {path for path, node in step.items() if node is None}
        snapshot = write(new.values(), base=snapshot, gone=gone, segmented=in_segments)
        model = {path: node for path, node in (model | new).items() if path not in gone}
        assert list(snapshot.nodes()) == [model[path] for path in sorted(model)]
        for path in NAMES:
            assert snapshot.find(path) == model.get(path)


@pytest.mark.usefixtures("way")
def test_unchanged_nodes_are_carried_over_as_bytes() -> None:
    """Also what no reader of today knows: reserved bytes, and fields that a later version appended."""
    later = Table("NodeSnapshot", **_fields(NODE_SNAPSHOT), shoe_size=U32)
    table = Table("Snapshot", **_fields(SNAPSHOT) | {"nodes": Required(type(SNAPSHOT.fields["nodes"].type)(later))})
    nodes = [
        {"id": b"nodeid%02d" % number, "path": f"/{number:02}", "user_data": GROUP, "node_data": (2, {})}
        | {"extra": b"reserved", "shoe_size": 0x0BADCAFE}
        for number in range(20)
    ]
    root = {"id": b"i" * 12, "nodes": nodes, "message": "", "metadata": [], "manifest_files": b""}
    snapshot = decode(wrap(build(table, root, FILE_IDENTIFIER), 2))
    for number in range(12):
        snapshot = write([group(f"/{number:02}", number)], base=snapshot)
    _, payload = open_envelope(encode_again(snapshot), FileType.SNAPSHOT, "snapshot")
    assert bytes(payload).count(0x0BADCAFE.to_bytes(4, "little")) >= 8
    assert snapshot.table.extra(15) == b"reserved"


def test_reserved_bytes_survive_writing_all_anew() -> None:
    nodes = [
        {"id": b"nodeid%02d" % number, "path": f"/{number:02}", "user_data": GROUP, "node_data": (2, {})}
        | ({"extra": b"reserved"} if number % 2 else {})
        for number in range(4)
    ]
    root = {"id": b"i" * 12, "nodes": nodes, "message": "", "metadata": [], "manifest_files": b""}
    snapshot = write(spec=1, base=decode(wrap(build(SNAPSHOT, root, FILE_IDENTIFIER), 2)))
    assert [snapshot.table.extra(row) for row in range(4)] == [None, b"reserved", None, b"reserved"]
    assert [node.path for node in snapshot.nodes()] == ["/00", "/01", "/02", "/03"]
    assert all(node.metadata == GROUP for node in snapshot.nodes())


def _fields(table: Table) -> dict[str, Any]:
    return {field.name: Required(field.type) if field.required else field.type for field in table.fields.values()}


def encode_again(snapshot: Snapshot) -> bytes:
    return encode_snapshot(
        spec=snapshot.spec,
        id=snapshot.id,
        parent_id=None,
        flushed_at=0,
        message="",
        metadata={},
        base=snapshot,
        changes={},
        add_manifests=(),
        drop_manifests=(),
    )


@pytest.mark.usefixtures("way")
def test_replaced_nodes_do_not_pile_up() -> None:
    snapshot = write([group(f"/{number}", number) for number in range(10)])
    sizes = []
    for number in range(100):
        changed = replace(group("/3", 3), metadata=b"%d" % number * 100)
        snapshot = write([changed], base=snapshot)
        sizes.append(snapshot.nbytes)
    assert max(sizes) < min(sizes) + 8192
    assert any(after < before for before, after in pairwise(sizes))
    assert snapshot.find("/3") == changed
    assert len(snapshot) == 10


@pytest.mark.usefixtures("way")
def test_the_head_of_the_snapshot_before_is_left_behind() -> None:
    snapshot = write([group(f"/{number:04}", number) for number in range(1000)])
    first = snapshot.nbytes
    for _ in range(20):
        snapshot = write([group("/0500", 1)], base=snapshot)
    assert snapshot.nbytes < first + 20 * 200


@pytest.mark.usefixtures("way")
def test_a_snapshot_whose_first_node_is_not_one_of_ours_goes_on() -> None:
    snapshot = decode(wrap(NODES_V2, 2))
    for number in range(10):
        snapshot = write([array(f"/n{number}", number)], base=snapshot)
    assert snapshot.paths() == ["/", "/a", *sorted(f"/n{number}" for number in range(10))]
    assert snapshot.find("/a") == decode(wrap(NODES_V2, 2)).find("/a")


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("begin", [0, 8, 2**20, "later"])
def test_a_note_about_the_body_is_not_believed_against_the_nodes(begin: int | str) -> None:
    first = write([group(f"/{number}", number) for number in range(20)])
    payload = bytearray(first.table.doc.buf)
    known = read_landmark(payload)
    assert known.body > 0
    where = begin if isinstance(begin, int) else known.body + 128
    write_landmark(payload, known._replace(body=where))
    snapshot = decode(wrap(bytes(payload), 2))
    for number in range(3):
        snapshot = write([array(f"/new{number}", number)], base=snapshot)
    assert [node for node in snapshot.nodes() if not node.is_array] == list(first.nodes())
    assert len(snapshot) == 23


@pytest.mark.usefixtures("way")
def test_two_nodes_of_one_path_are_replaced_together() -> None:
    nodes = [
        {"id": b"nodeid%02d" % number, "path": path, "user_data": GROUP, "node_data": (2, {})}
        for number, path in enumerate(["/a", "/b", "/b", "/c"])
    ]
    root = {"id": b"i" * 12, "nodes": nodes, "message": "", "metadata": [], "manifest_files": b""}
    snapshot = decode(wrap(build(SNAPSHOT, root, FILE_IDENTIFIER), 2))
    assert snapshot.find("/b") is not None
    assert write([group("/b", 9)], base=snapshot).paths() == ["/a", "/b", "/c"]
    assert write(base=snapshot, gone=["/b"]).paths() == ["/a", "/c"]


def test_a_node_is_written_at_its_own_path() -> None:
    with pytest.raises(InternalError):
        encode_snapshot(
            spec=2,
            id=b"i" * 12,
            parent_id=None,
            flushed_at=0,
            message="",
            metadata={},
            base=None,
            changes={"/a": group("/b")},
            add_manifests=(),
            drop_manifests=(),
        )


# ---- segments


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_encoding, "SEGMENT_SIZE", 4096)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("spec", [1, 2])
def test_a_look_up_decompresses_little(spec: int) -> None:
    nodes = [
        replace(array(f"/g{number // 10}/a{number}", number), metadata=b"%d" % number * 200) for number in range(400)
    ]
    files = [ManifestFile(file_id(number), number, number) for number in range(1000)]
    snapshot = write(nodes, spec=spec, files=files, segmented=True)
    payload = snapshot.table.doc.payload
    assert payload is not None
    assert snapshot.find("/g7/a77") == visible_in(nodes[77], spec)
    assert payload.loaded < len(payload) // 4
    assert snapshot.paths() == sorted(node.path for node in nodes)
    assert payload.loaded < len(payload) // 2
    assert snapshot.manifest_file(file_id(999)) == files[999]
    assert {node.path: node for node in snapshot.nodes()} == {node.path: visible_in(node, spec) for node in nodes}


def visible_in(node: Node, spec: int) -> Node:
    if spec == 2:
        return node
    shape = tuple(DimensionShape(each.length, each.chunks, -(-each.length // each.chunks)) for each in node.shape)
    return replace(node, shape=shape)


@pytest.mark.usefixtures("small_segments")
def test_segments_are_taken_over_as_they_are() -> None:
    nodes = [replace(group(f"/{number:03}", number), metadata=bytes([number % 256]) * 300) for number in range(200)]
    snapshot = write(nodes, segmented=True)
    model = {node.path: node for node in nodes}
    for number in range(30):
        changed = replace(group(f"/{7 * number % 200:03}", 1000 + number), metadata=b"%d" % number * 50)
        snapshot = write([changed], base=snapshot, segmented=True)
        model[changed.path] = changed
        payload = snapshot.table.doc.payload
        assert payload is not None
        before = len(payload.cuts)
    assert before < 60
    assert list(snapshot.nodes()) == [model[path] for path in sorted(model)]
    plain = write(base=snapshot)
    assert plain.table.doc.payload is None
    assert list(plain.nodes()) == list(snapshot.nodes())


def test_any_zstd_decoder_reads_a_snapshot_in_segments() -> None:
    nodes = [group(f"/{number:03}", number) for number in range(100)]
    data = encode_snapshot(
        spec=2,
        id=b"i" * 12,
        parent_id=None,
        flushed_at=0,
        message="",
        metadata={},
        base=None,
        changes={node.path: node for node in nodes},
        add_manifests=(),
        drop_manifests=(),
        segmented=True,
    )
    _, payload = open_envelope(data, FileType.SNAPSHOT, "snapshot")
    assert list(decode(wrap(bytes(payload), 2)).nodes()) == nodes


def test_templates_of_arrays_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_writer, "_MAX_TEMPLATES", 3)
    nodes = [array(f"/{number}", number, shape=(DimensionShape(number, number),)) for number in range(10)]
    assert list(write(nodes).nodes()) == nodes


# ---- damage


def test_chunks_without_length_are_refused() -> None:
    snapshot = write([array("/a", shape=(DimensionShape(5, 1, 0),))], spec=1)
    with pytest.raises(FormatError, match="chunks of length 0") as caught:
        snapshot.find("/a")
    assert caught.value.kind == "invalid-array-metadata"


def test_errors_name_file_table_and_field() -> None:
    with pytest.raises(FormatError, match=r"snapshots/X: Snapshot\.message: "):
        payload = bytearray(NODES_V2)
        at = payload.index(b"\x01\0\0\0m\0\0\0")
        payload[at : at + 4] = b"\xff" * 4
        decode(wrap(bytes(payload), 2))


def test_a_time_that_no_calendar_has_is_refused() -> None:
    root = {"id": b"i" * 12, "nodes": [], "message": "", "metadata": [], "manifest_files": b"", "flushed_at": 2**63}
    with pytest.raises(FormatError, match="flushed_at"):
        decode(wrap(build(SNAPSHOT, root, FILE_IDENTIFIER), 2))


def test_paths_that_share_one_long_string_do_not_fill_the_memory() -> None:
    nodes = [{"id": b"nodeid%02d" % 0, "path": "/" * 10_000, "user_data": b"", "node_data": (2, {})}]
    root = {"id": b"i" * 12, "nodes": nodes, "message": "", "metadata": [], "manifest_files": b""}
    payload = bytearray(build(SNAPSHOT, root, FILE_IDENTIFIER))
    payload += bytes(-len(payload) % 4)
    first = decode(wrap(bytes(payload), 2)).table
    position = first.columns().positions[0]
    vector = len(payload)
    # a vector of offsets can only lead forward, so the node goes behind it
    count = 1000
    node = vector + 4 + 4 * count
    payload += count.to_bytes(4, "little") + b"".join(
        (node - vector - 4 - 4 * place).to_bytes(4, "little") for place in range(count)
    )
    payload += bytes(payload[position:])
    view = decode(wrap(bytes(payload), 2)).root
    at = view.position("nodes")
    payload[at : at + 4] = (vector - at).to_bytes(4, "little")
    soffset = int.from_bytes(payload[node : node + 4], "little", signed=True)
    payload[node : node + 4] = (soffset + node - int(position)).to_bytes(4, "little", signed=True)
    snapshot = decode(wrap(bytes(payload), 2))
    assert len(snapshot) == count
    with pytest.raises(FormatError, match="overlap"):
        snapshot.paths()


@pytest.mark.parametrize("which", ["1.x", "2.x", "ours", "segments"])
def test_damaged_snapshots_raise_nothing_but_format_errors(which: str) -> None:
    refs = (ManifestRef(file_id(1), ((0, 1),)), ManifestRef(file_id(2), ((1, 3),)))
    ours = write(
        [group("/"), group("/g", 1), array("/a", 2, refs, dimension_names=("x",)), array("/g/b", 3)],
        files=[ManifestFile(file_id(number), 10, 2) for number in (1, 2)],
        metadata={"a": [1, 2], "b": {"c": None}},
    )
    payloads = {"1.x": NODES_V1, "2.x": NODES_V2, "ours": bytes(ours.table.doc.buf), "segments": b""}
    if which == "segments":
        whole = encode_again(write(ours.nodes(), segmented=True))
        files = [whole[:39] + damaged for damaged in damages(whole[39:], 5, 300)]
    else:
        files = [wrap(damaged, 1 if which == "1.x" else 2) for damaged in damages(payloads[which], 3, 250)]
    for data in files:
        try:
            look_at_everything(data)
        except FormatError:
            pass


def look_at_everything(data: bytes) -> None:
    parts = [
        lambda snapshot: snapshot.metadata,
        lambda snapshot: [snapshot.find(path) for path in ("/", "/a", "/g/b", "/zz")],
        lambda snapshot: list(snapshot.nodes()),
        lambda snapshot: snapshot.children("/"),
        lambda snapshot: snapshot.paths(),
        lambda snapshot: snapshot.array_paths(),
        lambda snapshot: snapshot.array_paths(1),
        lambda snapshot: list(snapshot.nodes_with_chunks()),
        lambda snapshot: snapshot.find_id(b"12345678"),
        lambda snapshot: snapshot.manifest_files(),
        lambda snapshot: snapshot.manifest_file(file_id(1)),
        lambda snapshot: snapshot.manifest_users([file_id(1)]),
        lambda snapshot: write([group("/new")], base=snapshot, spec=snapshot.spec, gone=["/g"]).paths(),
        lambda snapshot: write([group("/new")], base=snapshot, spec=3 - snapshot.spec).paths(),
    ]
    decode(data)
    for part in parts:
        try:
            part(decode(data))
        except FormatError:
            pass
