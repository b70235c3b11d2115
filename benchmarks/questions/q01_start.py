"""How long until a script can start? Import, and up to the first session and the first store of a small repository.

Each round is a new process with warm file caches; the interpreter's own start does not count. The store is zarr's: with
it zarr is imported, which the Rust package does in any case.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.fixtures import small
from benchmarks.harness import Fixture, Row, Stopwatch


def import_only(place: Path) -> float:
    with Stopwatch() as watch:
        import icechunk

        _ = icechunk.Repository
    return watch.seconds


def import_to_session(place: Path) -> float:
    with Stopwatch() as watch:
        import icechunk

        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
        repo.readonly_session("main")
    return watch.seconds


def import_to_store(place: Path) -> float:
    with Stopwatch() as watch:
        import icechunk

        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
        _ = repo.readonly_session("main").store
    return watch.seconds


SMALL = Fixture("small", small)
ROWS = [
    Row("import", "import icechunk", import_only, fresh=True, rounds=9),
    Row("first-session", "import, open, first session", import_to_session, fixture=SMALL, fresh=True, rounds=9),
    Row("first-store", "import, open, first store", import_to_store, fixture=SMALL, fresh=True, rounds=9),
]
