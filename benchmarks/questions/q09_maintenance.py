"""How long does looking after a repository take: expiring, collecting, upgrading; and a commit over a slow network?

Collected are 100,000 chunk objects of 500 snapshots, of which one in ten stays; upgraded is a history of 1,000 commits;
the slow commit touches 177 arrays while every request takes 60 ms; of that row the time that passes is shown.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.fixtures import GROUP, array_document, create, open_at, set_keys
from benchmarks.harness import Fixture, Row, Stopwatch
from benchmarks.questions.q08_history import history

ARRAYS = 177


def versions(path: Path, spec: int = 1) -> None:
    """500 commits, each of which overwrites the same 200 chunks."""
    repo = create(path, spec, inline_chunk_threshold_bytes=0)
    session = repo.writable_session("main")
    set_keys(session.store, {"zarr.json": GROUP, "a/zarr.json": array_document((200,), (1,))})
    session.commit("array")
    for number in range(500):
        session = repo.writable_session("main")
        set_keys(session.store, {f"a/c/{chunk}": b"%d" % number for chunk in range(200)})
        session.commit(f"version {number}")


def collect(place: Path) -> float:
    repo = open_at(place)
    infos = list(repo.ancestry(branch="main"))
    cutoff = infos[50].written_at
    repo = open_at(place)
    with Stopwatch() as watch:
        repo.expire_snapshots(cutoff)
        summary = repo.garbage_collect(datetime.now(UTC) + timedelta(days=1))
    assert summary.chunks_deleted > 80_000
    return watch.seconds


def upgrade(place: Path) -> float:
    import icechunk

    repo = open_at(place)
    with Stopwatch() as watch:
        icechunk.upgrade_icechunk_repository(repo, dry_run=False)
    return watch.seconds


def slow_commit(place: Path, spec: int) -> float:
    import icechunk
    from icechunk.testing import LatencyStorage

    storage = LatencyStorage(icechunk.in_memory_storage(), write_latency_ms=0, read_latency_ms=0)
    repo = icechunk.Repository.create(storage, spec_version=spec)
    session = repo.writable_session("main")
    documents = {f"a{number:03}/zarr.json": array_document((10,), (1,)) for number in range(ARRAYS)}
    set_keys(session.store, {"zarr.json": GROUP} | documents)
    session.commit("arrays")
    repo = icechunk.Repository.open(storage)
    session = repo.writable_session("main")
    set_keys(session.store, {f"a{number:03}/c/1": b"x" for number in range(ARRAYS)})
    storage.write_latency_ms = storage.read_latency_ms = 60
    with Stopwatch() as watch:
        session.commit("all of them")
    return watch.seconds


VERSIONS = {spec: Fixture("versions", versions, {"spec": spec}) for spec in (1, 2)}
ROWS = [
    *(
        Row(
            f"collect-{spec}",
            f"expire + collect, 100k chunks of 500 snapshots, disk, format {spec}",
            collect,
            fixture=VERSIONS[spec],
            fresh=True,
            rounds=1,
            memory=True,
            consumes=True,
            needs="1.1.21" if spec == 1 else "2.3.0",
        )
        for spec in (1, 2)
    ),
    Row(
        "upgrade",
        "upgrade a repository of 1,000 snapshots, disk",
        upgrade,
        fixture=Fixture("history", history, {"commits": 1_000, "spec": 1}),
        fresh=True,
        rounds=3,
        memory=True,
        consumes=True,
        needs="2.3.0",
    ),
    *(
        Row(
            f"slow-commit-{spec}",
            f"commit {ARRAYS} arrays, 60 ms a request, format {spec}",
            slow_commit,
            {"spec": spec},
            rounds=2,
            waits=True,
            needs="2.3.0",
        )
        for spec in (1, 2)
    ),
]
