"""Many nodes: list them, find one."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import Row, add


def nodes(count: int) -> Any:
    """What writes a repository of `count` arrays in groups of a hundred."""

    def build(directory: str) -> None:
        from benchmarks.api import array_json, create, local, put

        repo = create(local(f"{directory}/repo"))
        session = repo.writable_session("main")
        group = b'{"zarr_format":3,"node_type":"group"}'
        items = {"zarr.json": group}
        document = array_json((100, 100), (10, 10))
        for number in range(count):
            if number % 100 == 0:
                items[f"g{number // 100:04d}/zarr.json"] = group
            items[f"g{number // 100:04d}/a{number % 100:02d}/zarr.json"] = document
        put(session.store, items)
        session.commit("nodes")

    return build


def _repo(directory: str) -> Any:
    import icechunk

    return icechunk.local_filesystem_storage(f"{directory}/repo")


def _session(storage: Any) -> Any:
    import icechunk

    return icechunk.Repository.open(storage).readonly_session("main")


def _list(storage: Any) -> float:
    import time

    from zarr.core.sync import sync

    store = _session(storage).store

    async def collect() -> int:
        return len([key async for key in store.list()])

    start = time.perf_counter()
    assert sync(collect()) > 1000
    return time.perf_counter() - start


def _tree(storage: Any) -> float:
    """All directories, as a tree is drawn."""
    import time

    from zarr.core.sync import sync

    store = _session(storage).store

    async def walk() -> int:
        found = 0
        groups = [""]
        while groups:
            group = groups.pop()
            names = [name async for name in store.list_dir(group)]
            found += len(names)
            if not group:
                groups += [name for name in names if name.startswith("g")]
        return found

    start = time.perf_counter()
    assert sync(walk()) > 1000
    return time.perf_counter() - start


def _one_node(storage: Any) -> None:
    from benchmarks.api import get

    assert get(_session(storage).store, "g0042/a07/zarr.json") is not None


for count, label in ((10_000, "10 k"), (100_000, "100 k")):
    short = label.replace(" ", "")
    fewer = {"rounds": 3 if count > 10_000 else 5, "repeats": 1}
    add(Row(f"list-{short}", f"list every key; {label} nodes", _list, 0.1, prepare=_repo, build=nodes(count), **fewer))
    add(
        Row(
            f"tree-{short}",
            f"list every directory; {label} nodes",
            _tree,
            0.1,
            prepare=_repo,
            build=nodes(count),
            **fewer,
        )
    )
    add(
        Row(
            f"node-{short}",
            f"session + one node; {label} nodes",
            _one_node,
            0.5,
            prepare=_repo,
            build=nodes(count),
            **fewer,
        )
    )
