"""Chunks that share an object are chunks to everybody: the Rust implementation reads, keeps, rewrites and collects them.

Sessions of ours pack here from the first chunk on, into packs so small that there are many. What they wrote goes through
the hands of each version: it must look like what that version would have made of the same program by itself.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.interop.conftest import start
from tests.interop.descriptions import anonymous, but_for_sizes, differences
from tests.interop.language import step
from tests.interop.oracle import VERSIONS, Engine, Local, Program
from tests.interop.programs import Steps, commit, session
from tests.invariants import unreachable
from tests.packs import small_packs

import icechunk
from icechunk import chunk_packs
from icechunk._driver import run
from icechunk.format.chunk_table import NATIVE, ChunkTable
from icechunk.format.ids import format_id, parse_snapshot_id

pytestmark = pytest.mark.interop

PAIRS = [(version, spec) for version, specs in VERSIONS.items() for spec in specs]
FAR = datetime(2100, 1, 1, tzinfo=UTC)
PACKED = {"inline_chunk_threshold_bytes": 0, "pack_small_chunks": True}
CONFIGS = {
    "plain": PACKED,
    "split and segmented": {
        **PACKED,
        "segmented_metadata": True,
        "splitting": [[{"name": "b"}, [[{"axis": 0}, 2]]], [{"any": True}, [[{"any": True}, 90]]]],
    },
}

WRITTEN: Steps = [
    *session(),
    step("group", path="g"),
    step("array", path="a", shape=[200], chunks=[1], dtype="i4", compress=False),
    step("write", path="a", values={"range": 1}),
    step("array", path="g/b", shape=[4, 4, 3], chunks=[1, 1, 1], dtype="f8"),
    step("write", path="g/b", values={"range": 1000}),
    step("array", path="g/c", shape=[40, 40], chunks=[10, 10], dtype="i2", compress=False),
    step("write", path="g/c", values={"range": 7}),
    *commit("written", label="written"),
    *session(),
    step("write", path="a", values={"range": 5000}, where=[[100, 160]]),
    step("write", path="g/b", values={"fill": -1}, where=[[1, 3], 2, [0, 3]]),
    step("delete_key", key="a/c/7"),
    step("delete_key", key="g/b/c/3/3/2"),
    *commit("overwritten", label="overwritten"),
    *session(),
    step("fork", to="one"),
    step("fork", to="two"),
    step("write", path="g/c", values={"fill": 3}, where=[[0, 10], [0, 10]]),
    step("write", path="a", values={"range": 6000}, where=[[150, 180]], session="one"),
    step("write", path="g/c", values={"fill": 4}, where=[[20, 25], [5, 40]], session="two"),
    step("merge", others=["one", "two"]),
    *commit("merged"),
    step("rewrite_manifests", message="rewritten"),
]
MORE: Steps = [
    *session(),
    step("write", path="a", values={"range": 7000}, where=[[90, 110]]),
    step("write", path="g/b", values={"fill": -2}, where=[[0, 1], 0, [1, 3]]),
    step("resize", path="a", shape=[220]),
    step("write", path="a", values={"range": 8000}, where=[[210, 220]]),
    step("delete_key", key="g/c/c/3/3"),
    *commit("on top"),
    *session(),
    step("resize", path="g/b", shape=[4, 3, 3]),
    step("array", path="g/d", shape=[50], chunks=[1], dtype="u1", compress=False),
    step("write", path="g/d", values={"range": 1}),
    *commit("cut, and another", label="late"),
    step("rewrite_manifests", message="rewritten again"),
]


@pytest.fixture(autouse=True)
def many_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    small_packs(monkeypatch, alone=0, chunks=100, size=4)


@dataclass
class Objects:
    """The chunk objects that histories refer to: how many references lead to each, at how many places in it."""

    places: dict[str, set[int]] = field(default_factory=dict)

    def packs(self) -> set[str]:
        return {name for name, offsets in self.places.items() if 0 not in offsets}


def objects_of(path: str, *refs: str) -> Objects:
    """What is referred to by the history of some branches, by default all."""
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(path))
    found = Objects()
    for branch in refs or sorted(repo.list_branches()):
        for info in repo.ancestry(branch=branch):
            snapshot = run(repo._core.assets.snapshot(parse_snapshot_id(info.id)))
            for file in snapshot.manifest_files():
                manifest = run(repo._core.assets.manifest(file.id))
                for table in map(manifest.table, manifest.node_ids()):
                    native = table.take(np.flatnonzero(table.kind == NATIVE))
                    for row, offset in zip(native.native_ids(), native.offset.tolist(), strict=True):
                        found.places.setdefault(format_id(row.tobytes()), set()).add(offset)
    return found


def files_of(path: str) -> set[str]:
    return {file.name for file in (Path(path) / "chunks").glob("*")}


def seen(program: Program, engine: Engine) -> Any:
    return but_for_sizes(anonymous(program.describe(engine)))


def assert_both_see(program: Program, expected: Any, *engines: Engine) -> None:
    for engine in engines:
        assert not differences(expected, seen(program, engine)), f"read by {engine.name}"


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
def test_the_other_goes_on(oracle: Engine, ours: Engine, spec: int, config: str, tmp_path: Path, data: Path) -> None:
    """We pack, the other writes on top and looks after it, and we go on: as if it had been alone all the time."""
    alone, packed = Program(tmp_path / "alone", data), Program(tmp_path / "packed", data)
    for engine, program in ((oracle, alone), (ours, packed)):
        program.run(engine, [step("create", spec=spec, config=CONFIGS[config]), *WRITTEN])
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    before = objects_of(packed.path)
    assert len(before.packs()) >= 10
    assert before.packs() == before.places.keys() == files_of(packed.path)

    opening = step("open", config=CONFIGS[config])
    for program in (alone, packed):
        program.run(oracle, [opening, *MORE])
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    after = objects_of(packed.path)
    assert {name: after.places[name] for name in before.places} == before.places

    looking_after = [step("open"), step("expire", older_than={"after": "@overwritten"}), step("collect")]
    for program in (alone, packed):
        program.run(oracle, looking_after)
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    assert files_of(packed.path) == objects_of(packed.path).places.keys() < after.places.keys()

    again: Steps = [
        *session(),
        step("write", path="a", values={"range": 9000}),
        step("write", path="g/d", values={"fill": 9}, where=[[3, 40]]),
        *commit("ours again"),
        step("expire", older_than={"after": "@late"}),
        step("collect"),
    ]
    for engine, program in ((oracle, alone), (ours, packed)):
        program.run(engine, [opening, *again])
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    assert files_of(packed.path) == objects_of(packed.path).places.keys()


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
@pytest.mark.parametrize("collector", ["ours", "theirs"])
def test_a_pack_stays_as_long_as_one_of_its_chunks_is_needed(
    oracle: Engine, ours: Engine, spec: int, collector: str, tmp_path: Path, data: Path
) -> None:
    """In a repository of theirs, with objects of theirs among the packs."""

    def write(engine: Engine, value: int, start: int, stop: int, label: str) -> set[str]:
        """The objects that a commit came with."""
        before = files_of(program.path)
        edit = step("write", path="a", values={"fill": value}, where=[[start, stop]])
        program.run(engine, [step("open", config=PACKED), *session(), edit, *commit(label, label=label)])
        return files_of(program.path) - before

    def collect() -> dict[str, int]:
        steps = [step("open"), step("expire", older_than="future"), step("collect", dry_run=True), step("collect")]
        *_, planned, done = program.run(ours if collector == "ours" else oracle, steps)
        assert planned == done
        expected = np.array(values)
        for engine in (ours, oracle):
            *_, found = program.run(engine, [step("open"), step("read", path="a")])
            assert (np.array(found) == expected).all(), engine.name
        return done

    program = Program(tmp_path / "repo", data)
    array = step("array", path="a", shape=[20], chunks=[1], dtype="i4", compress=False)
    program.run(oracle, [step("create", spec=spec, config=PACKED), *session(), array, *commit("empty")])
    theirs = write(oracle, 1, 0, 4, "theirs")
    (first,) = write(ours, 2, 4, 20, "first pack")
    write(ours, 3, 4, 10, "second pack")
    (third,) = write(ours, 4, 4, 10, "third pack")
    values = [1] * 4 + [4] * 6 + [2] * 10
    assert collect()["chunks"] == 1  # nobody needs the second
    assert files_of(program.path) == theirs | {first, third}

    more = write(oracle, 5, 4, 19, "theirs over it")
    values[4:19] = [5] * 15
    assert collect()["chunks"] == 1  # of the first pack one chunk is left
    assert files_of(program.path) == theirs | more | {first}

    (fourth,) = write(ours, 6, 18, 20, "fourth pack")
    values[18:] = [6] * 2
    assert collect()["chunks"] == 2  # the first pack, and their chunk 18
    assert files_of(program.path) < theirs | more | {fourth}
    assert {fourth} | theirs < files_of(program.path)


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
def test_both_collect_the_same_packs(oracle: Engine, ours: Engine, spec: int, tmp_path: Path, data: Path) -> None:
    original = Program(tmp_path / "original", data)
    dead: Steps = [
        step("branch", name="dead", snapshot="@overwritten"),
        *session("dead"),
        step("write", path="a", values={"fill": 9}),
        *commit("dead"),
        step("delete_branch", name="dead"),
        *session(),
        step("write", path="a", values={"range": 2}),
        *commit("last"),
    ]
    original.run(ours, [step("create", spec=spec, config=PACKED), *WRITTEN, *dead])
    left, reports = [], []
    for engine in (ours, oracle):
        program = Program(tmp_path / engine.name, data)
        shutil.copytree(original.path, program.path)
        steps = [step("open"), step("expire", older_than="future"), step("collect"), step("collect")]
        *_, done, again = program.run(engine, steps)
        assert not any(again.values())
        reports.append(done)
        left.append(files_of(program.path))
        assert_both_see(program, seen(program, ours), oracle)
        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(program.path))
        assert not run(unreachable(repo, FAR))
    assert left[0] == left[1] == objects_of(str(tmp_path / "ours")).places.keys()
    assert reports[0] == reports[1]
    assert reports[0]["chunks"] > 5


@pytest.mark.parametrize("upgrader", ["ours", "theirs"])
def test_an_upgrade_keeps_them(
    engines: dict[str, Engine], ours: Engine, upgrader: str, tmp_path: Path, data: Path
) -> None:
    oracle = start("2.3.0", engines)
    program = Program(tmp_path / "repo", data)
    program.run(ours, [step("create", spec=1, config=PACKED), *WRITTEN])
    before, places = seen(program, ours), objects_of(program.path).places
    program.run(ours if upgrader == "ours" else oracle, [step("open"), step("upgrade")])
    assert_both_see(program, before, ours, oracle)
    assert objects_of(program.path).places == places
    for engine in (ours, oracle, ours):
        program.run(engine, [step("open"), *session(), step("write", path="a", values={"range": 3}), *commit("on")])
        assert_both_see(program, seen(program, ours), oracle)
    program.run(oracle, [step("open"), step("expire", older_than="future"), step("collect")])
    assert_both_see(program, seen(program, ours), oracle)
    assert files_of(program.path) == objects_of(program.path).places.keys() < places.keys() | files_of(program.path)


def test_amended_commits_keep_them(engines: dict[str, Engine], ours: Engine, tmp_path: Path, data: Path) -> None:
    oracle = start("2.3.0", engines)
    alone, packed = Program(tmp_path / "alone", data), Program(tmp_path / "packed", data)
    amending: Steps = [
        *WRITTEN,
        *session(),
        step("write", path="a", values={"range": 4000}, where=[[0, 30]]),
        *commit("to be better"),
        *session(),
        step("write", path="a", values={"range": 4500}, where=[[20, 60]]),
        step("amend", message="better"),
    ]
    for engine, program in ((oracle, alone), (ours, packed)):
        program.run(engine, [step("create", spec=2, config=PACKED), *amending])
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    for program in (alone, packed):
        edit = step("write", path="a", values={"range": 1}, where=[[25, 35]])
        program.run(oracle, [step("open"), *session(), edit, step("amend", message="best"), step("collect")])
    assert_both_see(packed, seen(alone, oracle), ours, oracle)
    reached = objects_of(packed.path).places.keys()
    assert reached == files_of(packed.path)


@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
def test_packs_of_the_usual_size(
    oracle: Engine, spec: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    """Chunks of up to a quarter of a pack, the first ones alone, bigger ones too."""
    monkeypatch.undo()
    config = icechunk.RepositoryConfig(pack_small_chunks=True)
    program = Program(tmp_path / "repo", data)
    storage = icechunk.local_filesystem_storage(program.path)
    repo = icechunk.Repository.create(storage, config, spec_version=spec)
    writing = repo.writable_session("main")
    rng = np.random.default_rng(spec)
    options: dict[str, Any] = {"dtype": "u1", "compressors": None}
    small = rng.integers(1, 255, (8, 30, 2000), "u1")
    large = rng.integers(1, 255, 3 << 20, "u1")
    zarr.create_array(writing.store, name="small", shape=small.shape, chunks=(1, 2, 1000), **options)[...] = small
    zarr.create_array(writing.store, name="large", shape=large.shape, chunks=(512 << 10,), **options)[...] = large
    zarr.create_array(writing.store, name="alone", shape=large.shape, chunks=(1 << 20,), **options)[...] = large
    writing.commit("all sizes")
    found = objects_of(program.path)
    assert len(found.packs()) == 2
    assert len(found.places) == 32 + 2 + 3
    described = seen(program, oracle)
    assert not differences(seen(program, Local()), described)
    (tree,) = (tree for tree in described["trees"].values() if tree["values"])
    for name, values in (("small", small), ("large", large), ("alone", large)):
        assert tree["values"][name]["digest"] == hashlib.sha256(values.tobytes()).hexdigest()


SIDE = 320


def many_references(path: str, spec: int, *, segmented: bool) -> icechunk.Repository:
    """A hundred thousand chunks of one byte, each the remainder of its number by 251, in four packs."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0, segmented_metadata=segmented)
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(path), config, spec_version=spec)
    session = repo.writable_session("main")
    options: dict[str, Any] = {"chunks": (1, 1), "dtype": "u1", "compressors": None, "fill_value": 255}
    zarr.create_array(session.store, name="a", shape=(SIDE + 1, SIDE), **options)
    number = np.arange(SIDE * SIDE)
    pack, place = number % 4, number // 4
    ids = np.random.default_rng(spec).integers(0, 256, (4, 12), np.uint8)
    for one in range(4):
        content = chunk_packs.HEAD + (number[pack == one] % 251).astype("u1").tobytes()
        run(session._workspace.assets.write_chunk(ids[one].tobytes(), content))
    coords = np.stack(np.unravel_index(number, (SIDE, SIDE)), 1).astype(np.uint32)
    offsets = (place + len(chunk_packs.HEAD)).astype(np.uint64)
    kind, length = np.full(len(number), NATIVE, np.uint8), np.ones(len(number), np.uint64)
    run(session._workspace.set_refs("/a", ChunkTable(coords, kind, length, offsets, chunk_ids=ids[pack])))
    session.commit("many")
    return repo


def table_of_tip(repo: icechunk.Repository) -> ChunkTable:
    workspace = repo.readonly_session("main")._workspace
    return run(workspace.chunk_table(run(workspace.array("/a"))))


@pytest.mark.parametrize("segmented", [False, True], ids=["plain", "segmented"])
@pytest.mark.parametrize(("oracle", "spec"), PAIRS, indirect=["oracle"])
def test_a_manifest_of_very_many(
    oracle: Engine, ours: Engine, spec: int, segmented: bool, tmp_path: Path, data: Path
) -> None:
    """Read by the other, revised by us and then by the other: every reference is what it was, or what was written."""
    program = Program(tmp_path / "repo", data)
    repo = many_references(program.path, spec, segmented=segmented)
    before = table_of_tip(repo)
    values = np.full((SIDE + 1, SIDE), 255)
    values[:SIDE] = np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 251
    for engine, row in ((ours, 100), (oracle, 200)):
        edits = [step("write", path="a", values={"fill": 252}, where=[one, [7, 9]]) for one in (row, SIDE)]
        program.run(engine, [step("open", config=PACKED), *session(), *edits, *commit(f"by {engine.name}")])
        values[[row, SIDE], 7:9] = 252
        *_, found = program.run(oracle, [step("open"), step("read", path="a", where=[[100, 330, 50], [0, SIDE, 3]])])
        assert (np.array(found) == values[100:330:50, ::3]).all()
    after = table_of_tip(icechunk.Repository.open(repo.storage))
    assert len(after) == len(before) + 2
    old, new = (table.take(np.flatnonzero(~was_edited(table.coords))) for table in (before, after))
    assert len(old) == SIDE * SIDE - 4
    for column in ("coords", "kind", "offset", "length", "chunk_ids"):
        assert (getattr(old, column) == getattr(new, column)).all(), column


def was_edited(coords: Any) -> Any:
    return np.isin(coords[:, 0], (100, 200, SIDE)) & np.isin(coords[:, 1], (7, 8))
