"""What this package does otherwise than the Rust package on purpose: each entry of `differences.toml` has its proof."""

from __future__ import annotations

import copy
import gc
import json
import pickle
import tomllib
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import icechunk
from icechunk._driver import run
from icechunk.format.ids import parse_id

HERE = Path(__file__).parent
PROTOTYPE = default_buffer_prototype()
NOW = datetime.now(UTC)


class Entry(NamedTuple):
    area: str
    name: str
    facts: dict[str, Any]


def entries() -> Iterator[Entry]:
    for area, members in tomllib.loads((HERE / "differences.toml").read_text(encoding="utf-8")).items():
        for name, facts in members.items():
            yield Entry(area, name, facts)


@pytest.mark.parametrize("entry", list(entries()), ids=lambda entry: f"{entry.area}.{entry.name}")
def test_every_difference_has_its_proof(entry: Entry) -> None:
    where, _, test = entry.facts.get("test", f"tests/api/{Path(__file__).name}::").partition("::")
    test = test or ("" if "test" in entry.facts else f"test_{entry.name.replace('-', '_')}")
    source = (HERE.parent.parent / where).read_text(encoding="utf-8")
    assert f"def {test}(" in source if test else "def test_" in source


def buffer(data: bytes) -> Any:
    return PROTOTYPE.buffer.from_bytes(data)


def new(spec: int = 2, config: icechunk.RepositoryConfig | None = None) -> icechunk.Repository:
    """A repository in memory with the array `/arr` of 4 x 4 ones in chunks of 2 x 2."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage(), config, spec_version=spec)
    with repo.transaction("main", message="arr") as store:
        array(store, "arr", (4, 4), (2, 2))[:] = 1
    return repo


def array(
    store: Any, name: str, shape: tuple[int, ...] = (4,), chunks: tuple[int, ...] = (1,), dtype: str = "i4"
) -> Any:
    return zarr.create_array(store, name=name, shape=shape, chunks=chunks, dtype=dtype, fill_value=0, compressors=None)


def messages(repo: icechunk.Repository) -> list[str]:
    return [commit.message for commit in repo.ancestry(branch="main")]


# ---- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", ["abc", "arrc/0/0", "arr/cc/0/0", "arr/c/00/0", "arr/c/+1/1", "arr//c/0/0", "a//zarr.json"]
)
def test_strict_keys(key: str) -> None:
    store = new().writable_session("main").store
    with pytest.raises(icechunk.InvalidInputError, match="invalid zarr key"):
        run(store.get(key, PROTOTYPE))
    with pytest.raises(icechunk.InvalidInputError):
        run(store.set(key, buffer(b"x")))


def test_strict_keys_leave_unusual_arrays_alone() -> None:
    session = new().writable_session("main")
    array(session.store, "c")[:] = 7
    assert array(session.store, "g/c/c", (2,))[:].tolist() == [0, 0]
    session.discard_changes()
    run(session.store.delete_dir("arr"))
    run(session.store.delete("zarr.json"))
    zarr.create_array(session.store, shape=(4,), chunks=(2,), dtype="i4")[:] = 7
    assert run(session.store.exists("c/1"))
    assert zarr.open_array(session.store, mode="r")[:].tolist() == [7] * 4
    session.discard_changes()


@pytest.mark.parametrize("key", ["arr/c", "arr/c/0", "arr/c/0/0/0"])
def test_chunk_rank(key: str) -> None:
    session = new().writable_session("main")
    with pytest.raises(icechunk.InvalidInputError) as caught:
        run(session.store.set(key, buffer(b"x")))
    assert caught.value.kind == "invalid-chunk-index"
    with pytest.raises(icechunk.InvalidInputError):
        session.store.set_virtual_ref(key, "s3://b/k", offset=0, length=1, validate_container=False)
    session.discard_changes()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("dimension_names", ["x", "y"]),
        ("chunk_grid", {"name": "regular", "configuration": {"chunk_shape": [0]}}),
    ],
)
def test_bad_metadata(member: str, value: Any) -> None:
    store = new().writable_session("main").store
    array(store, "ok")
    document = json.loads(run(store.get("ok/zarr.json", PROTOTYPE)).to_bytes())
    with pytest.raises(icechunk.InvalidInputError):
        run(store.set("bad/zarr.json", buffer(json.dumps(document | {member: value}).encode())))
    store.session.discard_changes()


REQUESTS: list[tuple[ByteRequest, slice]] = [
    (RangeByteRequest(0, 10**6), slice(0, None)),
    (RangeByteRequest(10**6, 10**6 + 5), slice(0, 0)),
    (RangeByteRequest(5, 2), slice(0, 0)),
    (OffsetByteRequest(10**6), slice(0, 0)),
    (SuffixByteRequest(4), slice(-4, None)),
    (SuffixByteRequest(10**6), slice(0, None)),
    (SuffixByteRequest(0), slice(0, 0)),
]


@pytest.mark.parametrize(("request_", "part"), REQUESTS)
@pytest.mark.parametrize("key", ["arr/zarr.json", "arr/c/0/0"])
@pytest.mark.parametrize("inline", [0, 512])
def test_byte_ranges(key: str, request_: ByteRequest, part: slice, inline: int) -> None:
    repo = new(config=icechunk.RepositoryConfig(inline_chunk_threshold_bytes=inline))
    store = repo.readonly_session("main").store
    whole = run(store.get(key, PROTOTYPE)).to_bytes()
    assert run(store.get(key, PROTOTYPE, request_)).to_bytes() == whole[part]


async def test_partial_values() -> None:
    store = new().readonly_session("main").store
    found = await store.get_partial_values(PROTOTYPE, [("arr/c/0/0", RangeByteRequest(0, 2)), ("arr/c/9/9", None)])
    assert [one and one.to_bytes() for one in found] == [b"\1\0", None]


def test_read_only_stores() -> None:
    repo = new()
    guarded = repo.writable_session("main").store.with_read_only(True)
    reading = repo.readonly_session("main").store
    for store in (guarded, reading):
        for write in (store.set("arr/c/0/0", buffer(b"x")), store.delete("arr/c/0/0"), store.clear()):
            with pytest.raises(icechunk.ReadOnlyError):
                run(write)
        assert run(store.exists("arr/c/0/0"))


def test_none_returned() -> None:
    session = new().writable_session("main")
    assert run(session.store.set("arr/c/0/0", buffer(b"x" * 16))) is None
    assert run(session.store.delete("arr/c/0/0")) is None
    session.discard_changes()


# ---- sessions -------------------------------------------------------------------------------------------------------


def test_no_changes() -> None:
    with pytest.raises(icechunk.NoChangesToCommitError) as caught:
        new().writable_session("main").commit("nothing")
    assert isinstance(caught.value, icechunk.SessionStateError)
    assert caught.value.kind == "no-changes-to-commit"


def test_dropped_changes() -> None:
    repo = new()
    gc.collect()
    with pytest.warns(icechunk.UncommittedChangesWarning):
        array(repo.writable_session("main").store, "b")
        gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", icechunk.UncommittedChangesWarning)
        discarded, session = repo.writable_session("main"), repo.writable_session("main")
        array(discarded.store, "b")
        discarded.discard_changes()
        fork = session.fork()
        array(fork.store, "b")
        session.merge(fork)
        session.commit("merged")
        del discarded, session, fork
        gc.collect()
    assert not [one for one in caught if one.category is icechunk.UncommittedChangesWarning]


@pytest.mark.parametrize("spec", [1, 2])
def test_recreated_nodes(spec: int) -> None:
    repo = new(spec)
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    for session, dtype in ((ours, "f4"), (theirs, "f8")):
        run(session.store.delete_dir("arr"))
        array(session.store, "arr", dtype=dtype)
    theirs.commit("theirs")
    with pytest.raises(icechunk.RebaseFailedError) as caught:
        ours.commit("ours", rebase_with=icechunk.BasicConflictSolver())
    assert [one.conflict_type for one in caught.value.conflicts] == [
        icechunk.ConflictType.NewNodeConflictsWithExistingNode
    ]
    ours.discard_changes()


@pytest.mark.parametrize("spec", [1, 2])
def test_reset_branches(spec: int) -> None:
    repo = new(spec)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="arr")[0, 0] = 5
    repo.reset_branch("main", list(repo.ancestry(branch="main"))[-1].id)
    with repo.transaction("main", message="other") as store:
        zarr.group(store)
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.commit("mine", rebase_with=icechunk.ConflictDetector())
    assert caught.value.kind == "not-on-branch"
    assert messages(repo) == ["other", "Repository initialized"]
    session.discard_changes()


def test_same_new_node() -> None:
    repo = new()
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(2)]
    for index, fork in enumerate(forks):
        array(fork.store, "new")[index] = index + 1
    session.merge(*forks)
    session.commit("merged")
    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert sorted(group) == ["arr", "new"]
    assert group["new"][:].tolist() == [1, 2, 0, 0]

    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(2)]
    for fork, dtype in zip(forks, ("i4", "f8"), strict=True):
        array(fork.store, "other", dtype=dtype)
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.merge(*forks)
    assert caught.value.kind == "merge-failed"
    for each in (session, *forks):
        each.discard_changes()


def test_merge_overlap() -> None:
    repo = new()
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(2)]
    for index, fork in enumerate(forks):
        zarr.open_array(fork.store, path="arr")[:2] = 10 + index
    with pytest.warns(icechunk.MergeOverlapWarning, match="2 chunks of /arr"):
        session.merge(*forks)
    assert zarr.open_array(session.store, path="arr")[0, 0] == 11
    session.discard_changes()


def test_replaced_nodes() -> None:
    repo = new()
    fork = repo.writable_session("main").fork()
    zarr.open_array(fork.store, path="arr")[0, 0] = 5
    with repo.transaction("main", message="replaced") as store:
        run(store.delete_dir("arr"))
        array(store, "arr", (4, 4), (2, 2))
    session = repo.writable_session("main")
    with pytest.raises(icechunk.SessionStateError) as caught:
        session.merge(fork)
    assert caught.value.kind == "merge-failed"
    assert not session.has_uncommitted_changes
    fork.discard_changes()


def test_amend_and_move() -> None:
    repo = new(spec=1)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="arr")[0, 0] = 5
    session.amend("better")
    assert messages(repo) == ["better", "Repository initialized"]
    before = repo.lookup_branch("main")
    session = repo.rearrange_session("main")
    node_id = session.get_node_id("/arr")
    session.move("/arr", "/moved")
    session.commit("moved")
    reading = repo.readonly_session("main")
    assert reading.get_node_id("/moved") == node_id
    assert int(zarr.open_array(reading.store, path="moved", mode="r")[0, 0]) == 5
    changes = repo.diff(from_snapshot_id=before, to_branch="main")
    assert (changes.deleted_arrays, changes.new_arrays) == ({"/arr"}, {"/moved"})


# ---- repositories ---------------------------------------------------------------------------------------------------


def test_new_format(tmp_path: Path) -> None:
    storage = icechunk.local_filesystem_storage(tmp_path / "new")
    assert icechunk.Repository.create(storage).spec_version == icechunk.SpecVersion.v2 == icechunk.spec_version()
    old = icechunk.local_filesystem_storage(tmp_path / "old")
    icechunk.Repository.create(old, spec_version=1)
    assert (tmp_path / "old" / "refs" / "branch.main" / "ref.json").exists()


def test_naive_times() -> None:
    repo = new()
    naive = NOW.astimezone().replace(tzinfo=None)
    assert repo.expire_snapshots(naive - timedelta(days=1)) == set()
    assert repo.garbage_collect(naive - timedelta(days=1)).snapshots_deleted == 0
    later = naive + timedelta(days=1)
    assert repo.readonly_session("main", as_of=later).snapshot_id == repo.lookup_branch("main")
    with pytest.raises(icechunk.SnapshotNotFoundError):
        repo.readonly_session("main", as_of=naive - timedelta(days=1))


@pytest.mark.parametrize("spec", [1, 2])
def test_creation(spec: int) -> None:
    storage = icechunk.in_memory_storage()
    icechunk.Repository.create(storage, spec_version=spec)
    run(storage.delete(["repo", "refs/branch.main/ref.json"]))
    assert not icechunk.Repository.exists(storage)
    repo = icechunk.Repository.create(storage, spec_version=spec)
    assert messages(repo) == ["Repository initialized"]
    with pytest.raises(icechunk.InvalidInputError, match="clean"):
        icechunk.Repository.create(storage, spec_version=spec)


@pytest.mark.parametrize("spec", [1, 2])
def test_expired_ids(spec: int) -> None:
    repo = new(spec)
    first = repo.lookup_branch("main")
    with repo.transaction("main", message="second") as store:
        zarr.open_array(store, path="arr")[0, 0] = 2
    assert repo.expire_snapshots(datetime.now(UTC) + timedelta(minutes=1)) == {first}
    assert messages(repo) == ["second", "Repository initialized"]


def test_config_storage() -> None:
    storage = icechunk.in_memory_storage()
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=9)
    repo = icechunk.Repository.create(storage, config)
    assert repo.config.storage == storage.default_settings()
    repo.save_config()
    assert icechunk.Repository.fetch_config(storage) == config
    settings = icechunk.StorageSettings(chunks_storage_class="COLD")
    again = repo.reopen(icechunk.RepositoryConfig(storage=settings))
    assert again.config.storage == storage.default_settings().merge(settings)
    again.save_config()
    stored = icechunk.Repository.fetch_config(storage)
    assert stored is not None and stored.storage == settings


def test_in_memory() -> None:
    repo = new()
    again = pickle.loads(pickle.dumps(repo))
    with again.transaction("main", message="by the copy") as store:
        zarr.open_array(store, path="arr")[0, 0] = 2
    assert messages(repo)[0] == "by the copy"


def test_stored_addresses() -> None:
    config = icechunk.RepositoryConfig.default()
    store = icechunk.gcs_store({"google_base_url": "https://elsewhere.example"})
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer("gs://bucket/", store))
    storage = icechunk.in_memory_storage()
    with icechunk.Repository.create(storage, config).transaction("main", message="virtual") as made:
        zarr.create_array(made, name="a", shape=(1,), dtype="u1", compressors=None)
        made.set_virtual_ref("a/c/0", "gs://bucket/x", offset=0, length=1)
    secret = icechunk.containers_credentials({"gs://bucket/": icechunk.gcs_credentials(bearer_token="secret")})
    repo = icechunk.Repository.open(storage, authorize_virtual_chunk_access=secret)
    with pytest.raises(icechunk.IcechunkError, match="google_base_url") as caught:
        zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:]
    assert caught.value.kind == "invalid-credentials"


def test_unauthorized_containers() -> None:
    config = icechunk.RepositoryConfig.default()
    container = icechunk.VirtualChunkContainer("s3://bucket/", icechunk.s3_store(region="us-east-1"))
    config.set_virtual_chunk_container(container)
    storage = icechunk.in_memory_storage()
    icechunk.Repository.create(storage, config)
    with pytest.warns(icechunk.UnauthorizedContainersWarning, match="s3://bucket/"):
        icechunk.Repository.open(storage)
    allowed = icechunk.containers_credentials({"s3://bucket/": icechunk.s3_credentials(anonymous=True)})
    with warnings.catch_warnings():
        warnings.simplefilter("error", icechunk.UnauthorizedContainersWarning)
        icechunk.Repository.open(storage, authorize_virtual_chunk_access=allowed)


@pytest.mark.parametrize("pretty", [True, False])
def test_inspect(pretty: bool) -> None:
    repo = new()
    assert repo.inspect_snapshot(repo.lookup_branch("main"), pretty=pretty)["commit_message"] == "arr"


# ---- configuration --------------------------------------------------------------------------------------------------


def test_plain_values(tmp_path: Path) -> None:
    repo = new()
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=5)
    commit = next(iter(repo.ancestry(branch="main")))
    for value in (config, commit):
        assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value
    storage = pickle.loads(pickle.dumps(icechunk.local_filesystem_storage(tmp_path)))
    assert str(tmp_path) in repr(storage)
    assert len({icechunk.ChunkType.inline, icechunk.ChunkType.native, icechunk.ChunkType.INLINE}) == 2
    assert icechunk.ManifestSplitDimCondition.Axis(0) == icechunk.ManifestSplitDimCondition.Axis(0)
    stats = repo.chunk_storage_stats()
    assert sum([stats, stats]).total_bytes() == 2 * stats.total_bytes() > 0


def test_container_prefix() -> None:
    config = icechunk.RepositoryConfig.default()
    store = icechunk.s3_store(region="us-east-1")
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer("s3://bucket", store))
    assert list(config.virtual_chunk_containers or ()) == ["s3://bucket/"]


def test_split_size() -> None:
    sizes = {icechunk.ManifestSplitCondition.AnyArray(): {icechunk.ManifestSplitDimCondition.Any(): 0}}
    with pytest.raises(ValueError, match="zero"):
        icechunk.ManifestSplittingConfig.from_dict(sizes)


def fetch() -> icechunk.GcsBearerCredential:
    return icechunk.GcsBearerCredential("token")


def test_gcs_callback() -> None:
    assert isinstance(icechunk.gcs_credentials(get_credentials=fetch), icechunk.GcsCredentials.Refreshable)


# ---- storage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [1, 2])
def test_ref_names(tmp_path: Path, spec: int) -> None:
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(tmp_path / "repo"), spec_version=spec)
    first = repo.lookup_branch("main")
    repo.create_branch("é", first)
    repo.create_tag("a b!", first)
    assert (repo.list_branches(), repo.list_tags()) == ({"main", "é"}, {"a b!"})


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_tree() -> None:
    conflict = icechunk.Conflict(icechunk.ConflictType.ChunkDoubleUpdate, "/arr", [[0]])
    error = icechunk.RebaseFailedError("1CECHNKREP0F1RSTCMT0", [conflict])
    assert isinstance(error, icechunk.ConflictError) and isinstance(error, icechunk.IcechunkError)
    assert pickle.loads(pickle.dumps(error)).conflicts == [conflict]
    session = new().writable_session("main")
    with pytest.raises(KeyError):
        run(session.store.set("nope/c/0", buffer(b"x")))
    with pytest.raises(KeyError):
        session.get_node_id("/nope")
    assert len(parse_id(session.snapshot_id)) == 12


# ---- xarray ---------------------------------------------------------------------------------------------------------


def test_to_icechunk() -> None:
    from icechunk.xarray import to_icechunk

    data = xr.Dataset({"v": ("x", np.zeros(2, "i4"))})
    session = new().writable_session("main")
    with pytest.raises(TypeError, match="session, not a store"):
        to_icechunk(data, session.store)
    to_icechunk(data, session, group="kept", write_empty_chunks=True)
    to_icechunk(data, session, group="skipped", write_empty_chunks=False)
    assert run(session.store.exists("kept/v/c/0")) and not run(session.store.exists("skipped/v/c/0"))
    session.discard_changes()
