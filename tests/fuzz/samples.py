"""Small repositories that hold a bit of everything, and a walk over everything that can be done with one."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import icechunk
from icechunk._driver import iterate, run
from icechunk.storage.base import Storage
from icechunk.storage.memory import MemoryStorage
from tests.session.helpers import array_json, big, buffer, group_json

NOW = datetime(2100, 1, 1, tzinfo=UTC)


def sample(spec: int, data: Path, *, compressed_locations: bool = False) -> MemoryStorage:
    """Groups and arrays of several ranks, chunks of every kind, manifests in pieces, branches, tags, moves, expiry.

    `data` is a file for virtual chunks to point into; with `compressed_locations` their URLs are stored that way. Every
    file is the same, to the last byte, each time.
    """
    ticks = itertools.count(1_700_000_000_000_000, 1000)
    os.utime(data, (1_600_000_000, 1_600_000_000))
    with mock.patch("os.urandom", random.Random(spec).randbytes), mock.patch("icechunk.core.now", ticks.__next__):
        return _sample(spec, data, MemoryStorage(clock=lambda: next(ticks) / 1_000_000), compressed_locations)


def _sample(spec: int, data: Path, storage: MemoryStorage, compressed_locations: bool) -> MemoryStorage:
    repo = icechunk.Repository.create(storage, _config(data, compressed_locations), spec_version=spec)
    first = _first(repo, data)
    repo.create_tag("first", first)
    repo.create_tag("gone", first)
    repo.delete_tag("gone")
    repo.create_branch("dev", first)
    _edit(repo, "dev", "more", {"grid/c/0/1": big(4), "grid/c/4/4": b"tiny"}, {"quality": 0.5, "by": ["a", None]})
    _edit(repo, "main", "second", {"grid/c/1/1": big(5), "line/c/2": b"another"})
    session = repo.writable_session("main")
    run(session.store.delete("line/c/0"))
    run(session.store.set("grid/zarr.json", buffer(array_json((4, 5), dimension_names=["x", None]))))
    run(session.store.delete_dir("old"))
    session.commit("shrunk")
    if spec == 2:
        session = repo.rearrange_session("main")
        session.move("/deep", "/deeper")
        session.commit("moved")
        session = repo.writable_session("main")
        run(session.store.set("scalar/c", buffer(b"again")))
        session.amend("amended")
        repo.set_metadata({"title": "a bit of everything", "numbers": [1, 2.5, -3]})
        repo.set_feature_flag("create_tag", True)
        session = repo.writable_session("main")
        run(session.store.set("scalar/c", buffer(b"aside")))
        session.flush("aside")
        times = [info.written_at for info in repo.ancestry(branch="main")]
        repo.expire_snapshots(times[1] + timedelta(microseconds=1))
    return storage


def _config(data: Path, compressed_locations: bool) -> icechunk.RepositoryConfig:
    any_array, axis = icechunk.ManifestSplitCondition.name_matches("grid"), icechunk.ManifestSplitDimCondition.Axis(0)
    splitting = icechunk.ManifestSplittingConfig.from_dict({any_array: {axis: 2}})
    manifest = icechunk.ManifestConfig(splitting=splitting)
    if compressed_locations:
        manifest.virtual_chunk_location_compression = icechunk.ManifestVirtualChunkLocationCompressionConfig(
            min_num_chunks=1, dictionary_max_training_samples=10
        )
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=20, manifest=manifest)
    prefix = f"file://{data.parent}/"
    store = icechunk.local_filesystem_store(str(data.parent))
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    return config


def _first(repo: icechunk.Repository, data: Path) -> str:
    session = repo.writable_session("main")
    store = session.store
    nodes = {
        "": group_json(title="root"),
        "deep": group_json(),
        "deep/er": group_json(),
        "grid": array_json((5, 5), dimension_names=["x", None]),
        "line": array_json((100,), (10,), attributes={"units": "m"}),
        "scalar": array_json((), ()),
        "deep/er/virtual": array_json((4, 4, 4), (1, 1, 1)),
        "old": group_json(),
        "old/array": array_json((2,), (1,)),
    }
    for path, document in nodes.items():
        run(store.set(f"{path}/zarr.json".lstrip("/"), buffer(document)))
    for key, value in {"grid/c/0/0": big(1), "grid/c/3/3": big(2), "grid/c/2/0": b"inline", "scalar/c": b"s",
                       "line/c/0": b"0", "line/c/9": big(3), "old/array/c/1": b"old"}.items():  # fmt: skip
        run(store.set(key, buffer(value)))
    url = f"file://{data}"
    modified = datetime.fromtimestamp(data.stat().st_mtime + 10, UTC)
    specs = [icechunk.VirtualChunkSpec([i, j, 0], url, 4 * i + j, 10) for i in range(4) for j in range(4)]
    specs.append(icechunk.VirtualChunkSpec([0, 0, 1], url, 5, 20, None, modified))
    store.set_virtual_refs("/deep/er/virtual", specs)
    return session.commit("first", {"note": "ünïcode", "nested": {"list": [1, {"x": True}]}})


def _edit(
    repo: icechunk.Repository,
    branch: str,
    message: str,
    chunks: dict[str, bytes],
    metadata: dict[str, Any] | None = None,
) -> None:
    session = repo.writable_session(branch)
    for key, value in chunks.items():
        run(session.store.set(key, buffer(value)))
    session.commit(message, metadata)


class Escaped(AssertionError):
    """Something else than an `IcechunkError` came out."""


class Walk:
    """Does everything with a repository; `errors` are those that came out, each of them an `IcechunkError`."""

    def __init__(self, storage: Storage, data: Path) -> None:
        self.storage = storage
        self.authorized = icechunk.containers_credentials({f"file://{data.parent}/": None})
        self.errors: list[icechunk.IcechunkError] = []
        self.steps = 0
        self.seen: set[str] = set()

    @contextlib.contextmanager
    def step(self, *what: object) -> Iterator[None]:
        self.steps += 1
        try:
            yield
        except icechunk.IcechunkError as error:
            self.errors.append(error)
        except Exception as error:
            raise Escaped(f"{type(error).__name__} in {what}: {error}") from error

    def attempt(self, what: str, call: Callable[[], Any], default: Any = None) -> Any:
        with self.step(what):
            found = call()
            return list(found) if isinstance(found, Iterator) else found
        return default

    def everything(self) -> Walk:
        repo = self.attempt("open", lambda: icechunk.Repository.open(
            self.storage, authorize_virtual_chunk_access=self.authorized))  # fmt: skip
        if repo is not None:
            self.read(repo)
            self.look_after(repo)
            self.write(repo)
        return self

    def read(self, repo: icechunk.Repository) -> None:
        branches = self.attempt("branches", repo.list_branches, set())
        tags = self.attempt("tags", repo.list_tags, set())
        for arguments in [*({"branch": name} for name in branches), *({"tag": name} for name in tags)]:
            history = self.attempt(
                f"ancestry {arguments}", lambda arguments=arguments: iter(repo.ancestry(**arguments))
            )
            self.snapshot(repo, arguments)
            for info in history or ():
                if info.id not in self.seen:
                    self.snapshot(repo, {"snapshot_id": info.id})
            if history and len(history) > 1:
                ends = {"from_snapshot_id": history[-1].id, "to_snapshot_id": history[0].id}
                self.attempt("diff", lambda ends=ends: str(repo.diff(**ends)))

    def snapshot(self, repo: icechunk.Repository, arguments: dict[str, str]) -> None:
        session = self.attempt(f"session {arguments}", lambda: repo.readonly_session(**arguments))
        if session is None or session.snapshot_id in self.seen:
            return
        snapshot = session.snapshot_id
        self.seen.add(snapshot)
        store = session.store
        for key in self.attempt("keys", lambda: iter(store.list()), ()):
            with self.step(arguments, key):
                run(store.get(key))
        for prefix in ("", "grid", "grid/c"):
            self.attempt(f"list {prefix}", lambda prefix=prefix: iter(store.list_dir(prefix)))
        self.attempt("virtual", session.all_virtual_chunk_locations)
        for path in ("/grid", "/deep/er/virtual"):
            self.attempt(f"columns {path}", lambda path=path: iterate(store.array_chunk_iterator(path)))
        self.attempt("type", lambda: session.chunk_type("/grid", (0, 0)))
        self.attempt("inspect snapshot", lambda: repo.inspect_snapshot(snapshot))
        self.attempt("inspect log", lambda: repo.inspect_transaction_log(snapshot))
        for file in self.attempt("manifests", lambda: repo.list_manifest_files(snapshot), ()):
            self.attempt("inspect manifest", lambda file=file: repo.inspect_manifest(file.id))

    def look_after(self, repo: icechunk.Repository) -> None:
        self.attempt("graph", lambda: str(repo.ancestry_graph(plain=True)))
        self.attempt("stats", repo.chunk_storage_stats)
        self.attempt("collect", lambda: repo.garbage_collect(NOW, dry_run=True))
        self.attempt("expire", lambda: str(repo.plan_expiration(NOW)))
        self.attempt("configuration", lambda: icechunk.Repository.fetch_config(self.storage))
        if repo.spec_version == 2:
            self.attempt("log", lambda: [repr(update) for update in repo.ops_log()])
            self.attempt("metadata", repo.get_metadata)
            self.attempt("flags", repo.feature_flags)
            self.attempt("status", repo.get_status)
            self.attempt("inspect", repo.inspect_repo_info)

    def write(self, repo: icechunk.Repository) -> None:
        """Commit, rebase, expire, collect and upgrade."""
        with self.step("commit"):
            late, session = repo.writable_session("dev"), repo.writable_session("dev")
            run(session.store.set("grid/c/0/2", buffer(b"new")))
            session.commit("new")
            run(late.store.set("grid/c/0/3", buffer(b"late")))
            late.commit("late", rebase_with=icechunk.ConflictDetector())
        with self.step("rewrite"):
            repo.rewrite_manifests("rewritten", branch="main")
        with self.step("expire and collect"):
            repo.expire_snapshots(NOW)
            repo.garbage_collect(NOW)
        if repo.spec_version == 1:
            with self.step("upgrade"):
                icechunk.upgrade_icechunk_repository(repo, dry_run=False)
