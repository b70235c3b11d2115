"""Small commits into small and large repositories."""

from __future__ import annotations

import itertools
from typing import Any

from benchmarks.listing import nodes
from benchmarks.opening import _million, _segmented
from benchmarks.rows import Row, add

_numbers = itertools.count()


def _open(directory: str) -> Any:
    """A copy of what was built, so that everybody starts from the same."""
    import shutil
    import tempfile

    from benchmarks.api import local

    path = tempfile.mkdtemp(dir=directory) + "/repo"
    shutil.copytree(f"{directory}/repo", path)
    return local(path)


def _one_chunk(storage: Any) -> float:
    import time

    import icechunk
    from benchmarks.api import put

    repo = icechunk.Repository.open(storage)
    session = repo.writable_session("main")
    number = next(_numbers)
    put(session.store, {f"a/c/{number % 100}/7/7": b"inline"})
    start = time.perf_counter()
    session.commit("one chunk")
    return time.perf_counter() - start


def _attribute(storage: Any) -> float:
    import time

    import icechunk
    from benchmarks.api import array_json, put

    repo = icechunk.Repository.open(storage)
    session = repo.writable_session("main")
    document = array_json((100, 100), (10, 10)).replace(b'"K"', b'"%d"' % next(_numbers))
    start = time.perf_counter()
    put(session.store, {"g0042/a07/zarr.json": document})
    session.commit("one attribute")
    return time.perf_counter() - start


add(
    Row(
        "chunk-in-million",
        "commit one chunk into an array of 1 M refs, cold",
        _one_chunk,
        0.4,
        prepare=_open,
        build=_million,
        built_by="reference",
        rounds=3,
        repeats=1,
    )
)
add(
    Row(
        "chunk-in-million-segmented",
        "the same; our file in segments",
        _one_chunk,
        0.1,
        prepare=_open,
        build=_segmented,
        built_by="ours",
        rounds=3,
        repeats=1,
    )
)
for count, label in ((10_000, "10 k"), (100_000, "100 k")):
    short = label.replace(" ", "")
    add(
        Row(
            f"attribute-{short}",
            f"commit one attribute among {label} nodes, cold",
            _attribute,
            0.5,
            prepare=_open,
            build=nodes(count),
            rounds=3,
            repeats=1,
        )
    )


def _tiny(spec: int, memory: bool) -> Any:
    def prepare(directory: str) -> Any:
        import tempfile

        import icechunk
        from benchmarks.api import array_json, create, local, put

        storage = icechunk.in_memory_storage() if memory else local(tempfile.mkdtemp(dir=directory) + "/repo")
        repo = create(storage, spec)
        session = repo.writable_session("main")
        put(
            session.store,
            {"zarr.json": b'{"zarr_format":3,"node_type":"group"}', "a/zarr.json": array_json((100,), (1,))},
        )
        session.commit("array")
        return repo

    return prepare


def _commit(repo: Any) -> None:
    from benchmarks.api import put

    session = repo.writable_session("main")
    put(session.store, {f"a/c/{next(_numbers) % 100}": b"inline"})
    session.commit("tiny")


def _nothing(directory: str) -> None:
    """Each makes its own."""


for spec in (1, 2):
    for memory in (True, False):
        place = "memory" if memory else "local"
        add(
            Row(
                f"tiny-{place}-{spec}",
                f"session, one chunk, commit; small repository, {place}, spec {spec}",
                _commit,
                0.5,
                prepare=_tiny(spec, memory),
                build=_nothing,
                rounds=9,
                repeats=9,
                against=("1.1.21", "2.3.0") if spec == 1 else ("2.3.0",),
            )
        )
