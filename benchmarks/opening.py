"""How long until there is something to read: importing, opening, the first chunk reference."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.rows import Row, add

MILLION = (100, 100, 100)


def _import(_: Any) -> None:
    import icechunk  # noqa: F401


add(
    Row(
        "import",
        "`import icechunk`",
        _import,
        0.5,
        fresh=True,
        rounds=9,
    )
)


def _first_session(directory: str) -> None:
    import icechunk

    icechunk.Repository.open(icechunk.local_filesystem_storage(f"{directory}/repo")).readonly_session("main")


def _small(directory: str) -> None:
    from benchmarks.api import array_json, create, local, put

    repo = create(local(f"{directory}/repo"))
    for number in range(10):
        session = repo.writable_session("main")
        put(session.store, {"a/zarr.json": array_json((10,), (1,)), f"a/c/{number}": b"x"})
        session.commit(f"commit {number}")


add(
    Row(
        "first-session",
        "import, open, first session; local, 10 commits",
        _first_session,
        0.9,
        prepare=lambda directory: directory,
        build=_small,
        fresh=True,
        rounds=9,
    )
)


def _open(storage: Any) -> None:
    import icechunk

    icechunk.Repository.open(storage).readonly_session("main")


def _local(directory: str) -> Any:
    from benchmarks.api import local

    return local(f"{directory}/repo")


def _memory(_: str) -> Any:
    import icechunk
    from benchmarks.api import array_json, create, put

    storage = icechunk.in_memory_storage()
    repo = create(storage)
    for number in range(10):
        session = repo.writable_session("main")
        put(session.store, {"a/zarr.json": array_json((10,), (1,)), f"a/c/{number}": b"x"})
        session.commit(f"commit {number}")
    return storage


add(
    Row(
        "open-local",
        "open + read-only session; local, 10 commits",
        _open,
        0.6,
        prepare=_local,
        build=_small,
        rounds=9,
        repeats=9,
    )
)
add(
    Row("open-memory", "open + read-only session; memory, 10 commits", _open, 0.6, prepare=_memory, rounds=9, repeats=9)
)


def _million(directory: str, config: Any = None) -> None:
    """A million native references; the chunks themselves are never written, nobody reads them here."""
    from benchmarks.api import array_json, create, local, put
    from benchmarks.references import virtual_million

    repo = create(local(f"{directory}/repo"), config=config)
    session = repo.writable_session("main")
    put(
        session.store,
        {"zarr.json": b'{"zarr_format":3,"node_type":"group"}', "a/zarr.json": array_json(MILLION, (1, 1, 1))},
    )
    session.commit("array")
    virtual_million(repo)


def _segmented(directory: str) -> None:
    import icechunk

    config = icechunk.RepositoryConfig.default()
    config.segmented_metadata = True
    _million(directory, config)


def _first_ref(directory: str) -> None:
    import icechunk

    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(f"{directory}/repo"))
    session = repo.readonly_session("main")
    kind = asyncio.run(session.chunk_type_async("/a", [50, 50, 50]))
    assert int(kind) == 2


for name, question, builder, build, target in (
    ("first-ref-theirs", "open + first chunk ref of 1 M, cold; the reference's file", "reference", _million, 0.35),
    ("first-ref-ours", "open + first chunk ref of 1 M, cold; our file", "ours", _million, 0.3),
    ("first-ref-segmented", "open + first chunk ref of 1 M, cold; our file in segments", "ours", _segmented, 0.1),
):
    add(
        Row(
            name,
            question,
            _first_ref,
            target,
            prepare=lambda directory: __import__("icechunk") and directory,
            build=build,
            built_by=builder,  # type: ignore[arg-type]
            fresh=True,
            rounds=5,
        )
    )
