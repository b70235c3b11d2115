"""How long until a script can start? Import, and import up to the first store of an existing small repository.

Each round is a new process with warm file caches; the interpreter's own start does not count.
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


def import_to_store(place: Path) -> float:
    with Stopwatch() as watch:
        import icechunk

        repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))
        _ = repo.readonly_session("main").store
    return watch.seconds


SMALL = Fixture("small", small)
ROWS = [
    Row("import", "import icechunk", import_only, fresh=True),
    Row("first-store", "import, open, first store", import_to_store, fixture=SMALL, fresh=True),
]
