"""A small command language that any Icechunk can be driven with: this package, and the Rust one in its own environment.

A program is a list of steps, a step is `[name, {arguments}]`, and everything in it is JSON. `Interpreter` runs steps with
whatever `icechunk` it can import, so the same program can be run by two implementations, or half by one and half by the
other. Run as a script it reads one step per line from standard input and answers with one line per step, which is how
`oracle.py` keeps the Rust package alive in another process.

Nothing here may depend on anything but icechunk, zarr and numpy: it is run inside the environments of the oracles.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import hashlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype

import icechunk

warnings.simplefilter("ignore")

JSON = Any
Steps = list[list[Any]]


def step(name: str, /, **arguments: JSON) -> list[Any]:
    """One command of a program."""
    return [name, arguments]


class Interpreter:
    """The state of a running program: one open repository and its named sessions."""

    def __init__(self) -> None:
        self.repo: icechunk.Repository | None = None
        self.sessions: dict[str, Any] = {}

    def do(self, name: str, arguments: dict[str, JSON]) -> JSON:
        """Run one step and return what it reports, in terms of JSON."""
        return getattr(self, "do_" + name)(**arguments)

    # -- the repository -----------------------------------------------------------------------------------------

    def do_about(self) -> JSON:
        """Which implementation this is."""
        return {"icechunk": icechunk.__version__, "zarr": zarr.__version__, "python": sys.version.split()[0]}

    def do_create(self, path: str, spec: int = 1, config: JSON = None, authorize: JSON = None) -> JSON:
        extra = {"spec_version": spec} if takes(icechunk.Repository.create, "spec_version") else {}
        self.repo = icechunk.Repository.create(
            storage_at(path),
            build_config(config) if config else None,
            authorize_virtual_chunk_access=build_authorization(authorize),
            **extra,
        )
        self.sessions = {}
        return None

    def do_open(self, path: str, config: JSON = None, authorize: JSON = None) -> JSON:
        self.repo = open_repository(path, config, authorize)
        self.sessions = {}
        return None

    def do_save_config(self, config: JSON = None) -> JSON:
        if config:
            self.repo = self.repo.reopen(config=build_config(config))
        self.repo.save_config()

    def do_branch(self, name: str, snapshot: str) -> JSON:
        self.repo.create_branch(name, snapshot)

    def do_delete_branch(self, name: str) -> JSON:
        self.repo.delete_branch(name)

    def do_reset_branch(self, name: str, snapshot: str, expected: str | None = None) -> JSON:
        self.repo.reset_branch(name, snapshot, from_snapshot_id=expected)

    def do_tag(self, name: str, snapshot: str) -> JSON:
        self.repo.create_tag(name, snapshot)

    def do_delete_tag(self, name: str) -> JSON:
        self.repo.delete_tag(name)

    def do_expire(self, older_than: JSON, branches: bool = False, tags: bool = False) -> JSON:
        released = self.repo.expire_snapshots(
            self._time(older_than), delete_expired_branches=branches, delete_expired_tags=tags
        )
        return sorted(released)

    def do_collect(self, older_than: JSON = "future", dry_run: bool = False) -> JSON:
        summary = self.repo.garbage_collect(self._time(older_than), dry_run=dry_run)
        kinds = ("chunks", "manifests", "snapshots", "transaction_logs")
        return {kind: getattr(summary, kind + "_deleted") for kind in kinds}

    def do_rewrite_manifests(self, message: str, branch: str = "main") -> JSON:
        return self.repo.rewrite_manifests(message, branch=branch)

    def do_upgrade(self) -> JSON:
        self.repo = icechunk.upgrade_icechunk_repository(self.repo, dry_run=False)
        self.sessions = {}

    def do_set_metadata(self, metadata: JSON) -> JSON:
        self.repo.set_metadata(metadata)

    def do_set_flag(self, name: str, value: bool | None) -> JSON:
        self.repo.set_feature_flag(name, value)

    def do_set_status(self, read_only: bool, reason: str | None = None) -> JSON:
        member = icechunk.RepoAvailability.read_only if read_only else icechunk.RepoAvailability.online
        self.repo.set_status(icechunk.RepoStatus(member, limited_availability_reason=reason))

    def _time(self, when: JSON) -> datetime.datetime:
        """`"future"`, or just `{"after": snapshot}` or just `{"before": snapshot}`."""
        if when == "future":
            return datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        tick = datetime.timedelta(microseconds=1)
        if "after" in when:
            return self.repo.lookup_snapshot(when["after"]).written_at + tick
        return self.repo.lookup_snapshot(when["before"]).written_at

    # -- sessions -----------------------------------------------------------------------------------------------

    def do_session(self, branch: str = "main", session: str = "s") -> JSON:
        self.sessions[session] = self.repo.writable_session(branch)
        return self.sessions[session].snapshot_id

    def do_rearrange(self, branch: str = "main", session: str = "s") -> JSON:
        self.sessions[session] = self.repo.rearrange_session(branch)

    def do_commit(self, message: str, session: str = "s", metadata: JSON = None, solver: JSON = None) -> JSON:
        extra = {"rebase_with": build_solver(solver)} if solver else {}
        return self.sessions[session].commit(message, metadata=metadata, **extra)

    def do_commit_empty(self, message: str, session: str = "s") -> JSON:
        return self.sessions[session].commit(message, allow_empty=True)

    def do_amend(self, message: str, session: str = "s", metadata: JSON = None) -> JSON:
        return self.sessions[session].amend(message, metadata=metadata)

    def do_flush(self, message: str, session: str = "s", metadata: JSON = None) -> JSON:
        return self.sessions[session].flush(message, metadata=metadata)

    def do_rebase(self, session: str = "s", solver: JSON = "detect") -> JSON:
        try:
            self.sessions[session].rebase(build_solver(solver))
        except icechunk.RebaseFailedError as error:
            return {"conflicts": [describe_conflict(conflict) for conflict in error.conflicts]}
        return {"conflicts": []}

    def do_discard(self, session: str = "s") -> JSON:
        self.sessions[session].discard_changes()

    def do_status(self, session: str = "s") -> JSON:
        return describe_diff(self.sessions[session].status())

    def do_fork(self, session: str = "s", to: str = "fork") -> JSON:
        self.sessions[to] = self.sessions[session].fork()

    def do_merge(self, session: str = "s", others: JSON = ("fork",)) -> JSON:
        self.sessions[session].merge(*[self.sessions[other] for other in others])

    def do_move(self, source: str, target: str, session: str = "s") -> JSON:
        self.sessions[session].move(source, target)

    def do_shift(self, path: str, offset: list[int], session: str = "s") -> JSON:
        self.sessions[session].shift_array("/" + path, tuple(offset))

    # -- nodes and chunks ---------------------------------------------------------------------------------------

    def _store(self, session: str) -> Any:
        return self.sessions[session].store

    def do_group(self, path: str, attributes: JSON = None, session: str = "s") -> JSON:
        zarr.create_group(self._store(session), path=path, attributes=attributes or {})

    def do_array(
        self,
        path: str,
        shape: list[int],
        dtype: JSON,
        chunks: list[int] | None = None,
        shards: list[int] | None = None,
        fill: JSON = None,
        compress: bool = True,
        dimensions: list[str | None] | None = None,
        attributes: JSON = None,
        session: str = "s",
    ) -> JSON:
        options: dict[str, Any] = {} if compress else {"compressors": None}
        if fill is not None:
            options["fill_value"] = fill
        zarr.create_array(
            self._store(session),
            name=path,
            shape=tuple(shape),
            dtype=build_dtype(dtype),
            chunks=tuple(chunks) if chunks is not None else "auto",
            shards=tuple(shards) if shards else None,
            dimension_names=dimensions,
            attributes=attributes,
            **options,
        )

    def _array(self, path: str, session: str) -> Any:
        return zarr.open_array(self._store(session), path=path, mode="r+")

    def do_write(self, path: str, values: JSON, where: JSON = None, session: str = "s") -> JSON:
        """Assign to a selection: `where` has an index or `[start, stop]` for each dimension, null means everything."""
        array, selection = self._array(path, session), build_selection(where)
        shape = np.broadcast_to(0, array.shape)[selection].shape
        array[selection] = build_values(values, shape, array.dtype)

    def do_resize(self, path: str, shape: list[int], session: str = "s") -> JSON:
        self._array(path, session).resize(tuple(shape))

    def do_attributes(self, path: str, attributes: JSON, session: str = "s") -> JSON:
        zarr.open(self._store(session), path=path, mode="r+").update_attributes(attributes)

    def do_delete(self, path: str, session: str = "s") -> JSON:
        asyncio.run(self._store(session).delete_dir(path))

    def do_delete_key(self, key: str, session: str = "s") -> JSON:
        asyncio.run(self._store(session).delete(key))

    def do_set_key(self, key: str, text: str, session: str = "s") -> JSON:
        buffer = default_buffer_prototype().buffer.from_bytes(text.encode())
        asyncio.run(self._store(session).set(key, buffer))

    def do_virtual(self, path: str, refs: JSON, validate: bool = True, session: str = "s") -> JSON:
        """Point chunks at files: refs are `{"at": [..], "url": .., "offset": .., "length": .., "etag"/"modified": ..}`."""
        specs = [
            icechunk.VirtualChunkSpec(
                ref["at"],
                ref["url"],
                ref["offset"],
                ref["length"],
                ref.get("etag"),
                datetime.datetime.fromtimestamp(ref["modified"], datetime.UTC) if "modified" in ref else None,
            )
            for ref in refs
        ]
        return self._store(session).set_virtual_refs("/" + path, specs, validate_containers=validate)

    # -- looking ------------------------------------------------------------------------------------------------

    def do_read(self, path: str, branch: str = "main", snapshot: str | None = None, where: JSON = None) -> JSON:
        session = self.repo.readonly_session(**({"snapshot_id": snapshot} if snapshot else {"branch": branch}))
        return np.asarray(zarr.open_array(session.store, path=path, mode="r")[build_selection(where)]).tolist()

    def do_diff(self, start: str, end: str) -> JSON:
        return describe_diff(self.repo.diff(from_snapshot_id=start, to_snapshot_id=end))

    def do_describe(self, path: str, authorize: JSON = None) -> JSON:
        """Everything that can be seen of the repository at `path`, opened afresh."""
        return describe_repository(open_repository(path, None, authorize))

    def do_preload_condition(self, path: str) -> JSON:
        """The stored condition for preloading, as the 2.x API prints it."""
        config = icechunk.Repository.fetch_config(storage_at(path))
        return repr(config.manifest.preload.preload_if)

    def do_exists(self, path: str) -> JSON:
        return icechunk.Repository.exists(storage_at(path))

    def do_changes(self) -> JSON:
        """The names of the operations in the log, newest first."""
        return [variant_name(type(update.kind)) for update in self.repo.ops_log()]


# -- from JSON to icechunk -------------------------------------------------------------------------------------------


def takes(function: Callable[..., Any], parameter: str) -> bool:
    return parameter in inspect.signature(function).parameters


def storage_at(path: str) -> Any:
    """The storage in a directory, or the one that JSON of the form `{"s3_storage": {arguments}}` describes."""
    if not path.startswith("{"):
        return icechunk.local_filesystem_storage(path)
    return call(json.loads(path))


def open_repository(path: str, config: JSON, authorize: JSON) -> Any:
    return icechunk.Repository.open(
        storage_at(path),
        build_config(config) if config else None,
        authorize_virtual_chunk_access=build_authorization(authorize),
    )


def build_authorization(prefixes: JSON) -> Any:
    """Prefixes that need no credentials, or by prefix the credentials as `{"s3_credentials": {arguments}}`."""
    if not prefixes:
        return None
    who = prefixes if isinstance(prefixes, dict) else dict.fromkeys(prefixes)
    return icechunk.containers_credentials({prefix: one and call(one) for prefix, one in who.items()})


def call(spec: JSON) -> Any:
    """What a function of icechunk, or a variant of a class, makes of `{"its.name": {arguments}}` or `{...: [arguments]}`."""
    ((name, arguments),) = spec.items()
    function = functools.reduce(getattr, name.split("."), icechunk)
    return function(**arguments) if isinstance(arguments, dict) else function(*arguments)


def build_dtype(dtype: JSON) -> Any:
    if isinstance(dtype, list):
        return np.dtype([(name, kind) for name, kind in dtype])
    return str if dtype == "str" else dtype


def build_selection(where: JSON) -> Any:
    return ... if where is None else tuple(slice(*axis) if isinstance(axis, list) else axis for axis in where)


def build_values(values: JSON, shape: tuple[int, ...], dtype: Any) -> Any:
    """`{"fill": x}`, `{"range": first}` or `{"list": nested}`; the second counts up through the selection."""
    if "fill" in values:
        return np.full(shape, values["fill"], dtype=dtype)
    if "range" in values:
        size = int(np.prod(shape, dtype=np.int64))
        return np.arange(values["range"], values["range"] + size).astype(dtype).reshape(shape)
    listed = values["list"]
    if dtype.names:
        return np.array([tuple(row) for row in listed], dtype=dtype)
    return np.array(listed, dtype=dtype)


def build_config(spec: JSON) -> Any:
    """A RepositoryConfig from nested dictionaries that carry its own field names."""
    config = icechunk.RepositoryConfig.default()
    plain = ("inline_chunk_threshold_bytes", "get_partial_values_concurrency", "max_concurrent_requests")
    newer = ("num_updates_per_repo_info_file", "max_concurrent_decodes")
    for name in (*plain, *newer, "segmented_metadata", "pack_small_chunks"):
        if name in spec and (name in plain or hasattr(config, name)):  # others have never heard of the last ones
            setattr(config, name, spec[name])
    if "compression_level" in spec:
        config.compression = icechunk.CompressionConfig(
            algorithm=icechunk.CompressionAlgorithm.Zstd, level=spec["compression_level"]
        )
    if "caching" in spec:
        config.caching = icechunk.CachingConfig(**spec["caching"])
    if "storage" in spec:
        config.storage = build_storage_settings(spec["storage"])
    if "splitting" in spec or "preload" in spec:
        config.manifest = icechunk.ManifestConfig(
            preload=build_preload(spec["preload"]) if "preload" in spec else None,
            splitting=build_splitting(spec["splitting"]) if "splitting" in spec else None,
        )
    containers = spec.get("containers", ())
    for prefix in containers:
        where = containers[prefix] if isinstance(containers, dict) else None
        store = call(where) if where else icechunk.local_filesystem_store(prefix.removeprefix("file://"))
        config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, store))
    return config


def build_storage_settings(spec: JSON) -> Any:
    arguments = dict(spec)
    if "concurrency" in arguments:
        arguments["concurrency"] = icechunk.StorageConcurrencySettings(**arguments["concurrency"])
    if "retries" in arguments:
        arguments["retries"] = icechunk.StorageRetriesSettings(**arguments["retries"])
    return icechunk.StorageSettings(**arguments)


def build_condition(kind: Any, spec: JSON) -> Any:
    """A condition on arrays, of `kind` ManifestSplitCondition or ManifestPreloadCondition."""
    (name, value), *_ = spec.items()
    match name:
        case "or":
            return kind.or_conditions([build_condition(kind, part) for part in value])
        case "and":
            return kind.and_conditions([build_condition(kind, part) for part in value])
        case "name":
            return kind.name_matches(value)
        case "path":
            return kind.path_matches(value)
        case "any":
            return kind.AnyArray()
        case "refs":
            return kind.num_refs(*value)
        case "always":
            return kind.true() if value else kind.false()
    raise ValueError(name)


def build_splitting(spec: JSON) -> Any:
    conditions = icechunk.ManifestSplitDimCondition

    def dimension(one: JSON) -> Any:
        (name, value), *_ = one.items()
        if name == "axis":
            return conditions.Axis(value)
        return conditions.DimensionName(value) if name == "dimension" else conditions.Any()

    return icechunk.ManifestSplittingConfig.from_dict(
        {
            build_condition(icechunk.ManifestSplitCondition, array): {dimension(one): size for one, size in sizes}
            for array, sizes in spec
        }
    )


def build_preload(spec: JSON) -> Any:
    return icechunk.ManifestPreloadConfig(
        max_total_refs=spec.get("max_total_refs"),
        preload_if=build_condition(icechunk.ManifestPreloadCondition, spec["if"]) if "if" in spec else None,
    )


def build_solver(spec: JSON) -> Any:
    if spec == "detect":
        return icechunk.ConflictDetector()
    selection = {"ours": icechunk.VersionSelection.UseOurs, "theirs": icechunk.VersionSelection.UseTheirs}
    return icechunk.BasicConflictSolver(on_chunk_conflict=selection.get(spec, icechunk.VersionSelection.Fail))


# -- from icechunk to JSON -------------------------------------------------------------------------------------------


def describe_repository(repo: Any) -> JSON:
    """Refs, histories, hierarchies with every value, stored configuration and sizes."""
    branches = {name: repo.lookup_branch(name) for name in sorted(repo.list_branches())}
    tags = {name: repo.lookup_tag(name) for name in sorted(repo.list_tags())}
    tips = sorted({*branches.values(), *tags.values()})
    histories = {tip: [describe_snapshot(info) for info in repo.ancestry(snapshot_id=tip)] for tip in tips}
    ids = sorted({info["id"] for history in histories.values() for info in history[:: 1 + len(history) // 12]})
    stats = repo.chunk_storage_stats()
    return {
        "branches": branches,
        "tags": tags,
        "histories": histories,
        "trees": {snapshot: describe_tree(repo.readonly_session(snapshot_id=snapshot)) for snapshot in ids},
        "diffs": {tip: describe_history_diff(repo, history) for tip, history in histories.items()},
        "config": describe_config(icechunk.Repository.fetch_config(repo.storage)),
        "bytes": [stats.native_bytes, stats.virtual_bytes, stats.inlined_bytes],
    }


def describe_snapshot(info: Any) -> JSON:
    return {
        "id": info.id,
        "parent": info.parent_id,
        "message": info.message,
        "metadata": info.metadata,
        "written_at": info.written_at.isoformat(),
    }


def describe_history_diff(repo: Any, history: JSON) -> JSON:
    if len(history) < 2:
        return None
    return describe_diff(repo.diff(from_snapshot_id=history[-1]["id"], to_snapshot_id=history[0]["id"]))


def describe_diff(diff: Any) -> JSON:
    names = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    described: dict[str, JSON] = {name: sorted(getattr(diff, name)) for name in names}
    described["updated_chunks"] = {
        path: sorted(list(coords) for coords in chunks) for path, chunks in sorted(diff.updated_chunks.items())
    }
    described["text"] = str(diff)
    return described


def describe_conflict(conflict: Any) -> JSON:
    chunks = conflict.conflicted_chunks
    return {
        "type": str(conflict.conflict_type),
        "path": conflict.path,
        "chunks": None if chunks is None else sorted(list(coords) for coords in chunks),
    }


def describe_tree(session: Any) -> JSON:
    """Every key, document, chunk and value of one snapshot."""
    store = session.store
    keys, raw = asyncio.run(_fetch_all(store))
    documents = {key: raw[key] for key in keys if key.split("/")[-1] == "zarr.json"}
    arrays = [
        key.removesuffix("zarr.json").rstrip("/")
        for key, text in documents.items()
        if json.loads(text)["node_type"] == "array"
    ]
    return {
        "keys": keys,
        "documents": documents,
        "values": {path: describe_array(store, path) for path in arrays},
        "chunks": {path: describe_chunks(session, path) for path in arrays},
        "virtual": sorted(session.all_virtual_chunk_locations()),
    }


async def _fetch_all(store: Any) -> tuple[list[str], dict[str, str]]:
    keys = sorted([key async for key in store.list()])
    raw = {}
    for key in keys:
        if key.split("/")[-1] == "zarr.json":
            raw[key] = (await store.get(key, default_buffer_prototype())).to_bytes().decode()
    return keys, raw


def describe_array(store: Any, path: str) -> JSON:
    """Shape, type and values: in full when they are few, else a digest."""
    try:
        array = zarr.open_array(store, path=path, mode="r")
        part = ... if array.nchunks <= 1200 else slice(0, array.chunks[0])
        values = np.asarray(array[part])
    except Exception as error:
        return {"error": "" if isinstance(error, icechunk.IcechunkError) else type(error).__name__}
    described: dict[str, JSON] = {"shape": list(values.shape), "dtype": str(values.dtype)}
    if values.size <= 32 or values.dtype.kind in "OT":
        described["values"] = repr(values.tolist())
    else:
        described["digest"] = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return described


def describe_chunks(session: Any, path: str) -> JSON:
    """The coordinates of the chunks that are there, and the kinds of at most some fifty of them."""
    path = "/" + path.lstrip("/")

    async def collect() -> JSON:
        coordinates = sorted([list(coords) async for coords in session.chunk_coordinates(path)])
        sample = coordinates[:: 1 + len(coordinates) // 50]
        return [coordinates, [int(await session.chunk_type_async(path, coords)) for coords in sample]]

    return asyncio.run(collect())


def describe_config(config: Any) -> JSON:
    """Fields of a configuration that both versions know, without those that are unset."""
    if config is None:
        return None
    if isinstance(config, bool | int | float | str):
        return config
    if isinstance(config, os.PathLike):
        return os.fspath(config)
    if isinstance(config, list | tuple):
        return [describe_config(item) for item in config]
    if isinstance(config, dict):
        return {str(key): describe_config(value) for key, value in config.items()}
    described = {}
    for name in CONFIG_FIELDS:
        value = getattr(config, name, None)
        if value is not None and not callable(value):
            described[name] = describe_config(value)
    return described or variant_name(type(config))


CONFIG_FIELDS = (
    *("inline_chunk_threshold_bytes", "get_partial_values_concurrency", "max_concurrent_requests", "compression"),
    *("caching", "storage", "manifest", "virtual_chunk_containers", "level"),
    *("num_snapshot_nodes", "num_chunk_refs", "num_transaction_changes", "num_bytes_attributes", "num_bytes_chunks"),
    *("concurrency", "retries", "unsafe_use_conditional_create", "unsafe_use_conditional_update"),
    *("unsafe_use_metadata", "storage_class", "metadata_storage_class", "chunks_storage_class"),
    *("minimum_size_for_multipart_upload", "max_concurrent_requests_for_object", "ideal_concurrent_request_size"),
    *("max_tries", "initial_backoff_ms", "max_backoff_ms", "preload", "splitting", "max_total_refs"),
    *("split_sizes", "url_prefix", "store", "_0", "regex", "num_updates_per_repo_info_file", "max_concurrent_decodes"),
)


def variant_name(kind: type) -> str:
    """`ManifestSplitCondition_Or`, `Or` and `PyX_Or` are all `Or`."""
    return kind.__name__.rpartition("_")[2]


# -- as a process ----------------------------------------------------------------------------------------------------


def answer(interpreter: Interpreter, line: str) -> JSON:
    name, arguments = json.loads(line)
    try:
        return {"ok": interpreter.do(name, arguments)}
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust package is no Exception
        kind = getattr(error, "kind", None)
        classes = [each.__name__ for each in type(error).__mro__]
        return {"error": {"type": classes[0], "classes": classes, "kind": kind and str(kind), "message": str(error)}}


def main() -> None:
    """Answer steps until standard input ends. Answers go to the old standard output, which nobody else can write to."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    interpreter = Interpreter()
    with contextlib.suppress(BrokenPipeError):
        for line in sys.stdin:
            answers.write(json.dumps(answer(interpreter, line)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
