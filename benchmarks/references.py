"""Virtual references by the million: set them, and commit."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import Row, add

MILLION = (100, 100, 100)
FILES = 20_000


def locations() -> list[str]:
    """A million URLs of twenty thousand files."""
    names = [f"s3://bucket/some/long/prefix/of/a/model/run/file-{number:06d}.nc" for number in range(FILES)]
    return [names[number // 50] for number in range(1_000_000)]


def virtual_million(repo: Any) -> None:
    """Set and commit a million references in the way each package is quickest at."""
    import numpy as np

    session = repo.writable_session("main")
    if hasattr(session.store, "set_virtual_refs_arr"):
        offsets = np.arange(1_000_000, dtype=np.uint64) * 1000
        lengths = np.full(1_000_000, 1000, np.uint64)
        session.store.set_virtual_refs_arr("/a", MILLION, locations(), offsets, lengths, validate_containers=False)
    else:
        session.store.set_virtual_refs("/a", specs(), validate_containers=False)
    session.commit("references")


def specs() -> list[Any]:
    """The same references, one object each."""
    import icechunk

    urls = locations()
    return [
        icechunk.VirtualChunkSpec([i, j, k], urls[(i * 100 + j) * 100 + k], ((i * 100 + j) * 100 + k) * 1000, 1000)
        for i in range(100)
        for j in range(100)
        for k in range(100)
    ]


def _empty(directory: str) -> Any:
    import tempfile

    from benchmarks.api import array_json, create, local, put

    repo = create(local(tempfile.mkdtemp(dir=directory) + "/repo"))
    session = repo.writable_session("main")
    put(
        session.store,
        {"zarr.json": b'{"zarr_format":3,"node_type":"group"}', "a/zarr.json": array_json(MILLION, (1, 1, 1))},
    )
    session.commit("array")
    return repo


def _columns(repo: Any) -> None:
    virtual_million(repo)


def _specs(repo: Any) -> None:
    session = repo.writable_session("main")
    session.store.set_virtual_refs("/a", specs(), validate_containers=False)
    session.commit("references")


def _touch(directory: str) -> None:
    """Nothing to find: what is measured makes its own repository."""


add(
    Row(
        "million-columns",
        "set + commit 1 M virtual refs, by columns (specs in 1.1.21)",
        _columns,
        0.05,
        prepare=_empty,
        build=_touch,
        fresh=True,
        rounds=3,
        against=("1.1.21",),
    )
)
add(
    Row(
        "million-columns-2",
        "set + commit 1 M virtual refs, by columns",
        _columns,
        0.3,
        prepare=_empty,
        build=_touch,
        fresh=True,
        rounds=3,
        against=("2.3.0",),
    )
)
add(
    Row(
        "million-specs",
        "set + commit 1 M virtual refs, by specs",
        _specs,
        0.1,
        prepare=_empty,
        build=_touch,
        fresh=True,
        rounds=3,
    )
)
